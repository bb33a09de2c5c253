"""``locara-sidecar models …`` as a person at a terminal uses it, against a hub on loopback."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locara_sidecar.machine.engine_choice import installed
from locara_sidecar.models import catalogue
from locara_sidecar.models.cache import partial
from support.hub import FakeHub
from support.model_store import entry_data, write_model


@pytest.fixture
def hub(tmp_path):
    served = FakeHub()
    served.add("org/mine", write_model(tmp_path / "mine", size=400_000))
    yield served
    served.close()


@pytest.fixture
def models(tmp_path, hub):
    """Run the command; return (status, stdout, stderr)."""
    (tmp_path / "catalogue").mkdir()
    data = entry_data(displayName="Mine", downloadBytes=1_200_000)
    (tmp_path / "catalogue" / "mine.json").write_text(json.dumps(data))
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "TERM": "xterm", "COLUMNS": "120"}
    places = ["--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue")]

    def run(*words, **more):
        no_engine = ("--engine", "fake") if words[0] in ("download", "import") else ()  # these cannot be drawn with
        argv = [sys.executable, "-m", "locara_sidecar", "models", *words, *places, *no_engine]
        if more.pop("start", False):
            return subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, **more)
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=50, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.timeout(240)  # a dozen commands, each in its own Python process
def test_a_model_is_listed_downloaded_shown_checked_and_removed(models, tmp_path):
    rows = [line.split() for line in models("list")[1].splitlines()]
    assert [row[0] for row in rows[3:5]] == ["mine", "sd3.5-medium"]
    assert rows[3][1] == "no"
    assert "1.2 MB" in " ".join(rows[3])

    status, out, err = models("download", "mine")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "asking the hub …"
    assert out.splitlines()[-1].startswith("mine is installed: 5 files, 1.2 MB, sha256:")

    _, out, _ = models("get", "mine")
    assert out.startswith("Mine (mine, version 2)\n")
    for words in ("org/mine at ", "installed   in /", "steps, guidance", "\nmemory      engine "):
        assert words in out
    assert "to get it" not in out
    assert next(line for line in models("list")[1].splitlines() if line.startswith("mine ")).split()[1] == "yes"
    assert ("\nspeeds      balanced from 12 steps on (torch); fast from 12" in out) == ("torch" in installed())
    assert "True" not in out

    assert models("verify", "mine")[1].splitlines()[-1].startswith("mine is intact: 5 files, sha256:")
    assert f"1.2 MB in {tmp_path / 'cache'}, 1.2 MB can be freed (models remove ID, or" in models("usage")[1]
    assert models("gc")[1] == "Nothing to remove.\n"
    assert models("gc", "--max-bytes", "0", "--dry-run")[1].splitlines()[-1] == "1.2 MB would be freed"
    assert models("remove", "mine", "--dry-run")[1].startswith("would remove mine (sha256:")
    assert models("remove", "mine")[1].splitlines()[-1] == "1.2 MB freed"
    status, _, err = models("remove", "mine")
    assert (status, err) == (1, "locara-sidecar: The model mine is not in the model cache.\n")


@pytest.mark.slow
def test_what_the_machine_reads_is_what_the_methods_answer(models, tmp_path):
    result = json.loads(models("import", "mine", str(tmp_path / "mine"), "--json")[1])
    assert set(result) == {"model", "digest", "bytes", "files"}
    assert json.loads(models("verify", "mine", "--json")[1])["ok"] is True
    blobs = sorted((tmp_path / "cache" / "blobs").iterdir())
    assert json.loads(models("download", "pocket", "--json")[1])["model"] == "pocket"
    assert json.loads(models("get", "pocket", "--json")[1])["path"] == str(Path(catalogue.__file__).parent / "pocket")
    assert sorted((tmp_path / "cache" / "blobs").iterdir()) == blobs, "it is used where it lies, in the package"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("download", "nothing"),
            "There is no model nothing in the catalogue.\nTo see all models: locara-sidecar models list",
        ),
        (
            ("verify", "mine"),
            "The model mine is not installed.\nTo install it: locara-sidecar models download mine",
        ),
        (("import", "mine", "/nowhere/at/all"), "There is no folder /nowhere/at/all."),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_status_1(models, words, sentence):
    status, _, err = models(*words)
    assert (status, err) == (1, f"locara-sidecar: {sentence}\n")


@pytest.mark.slow
def test_an_own_model_without_a_source_is_imported_and_nothing_is_said_to_be_downloaded(models, tmp_path):
    (tmp_path / "catalogue" / "own.json").write_text(json.dumps(entry_data(id="own", source={})))
    row = next(line for line in models("list")[1].splitlines() if line.startswith("own "))
    assert row.split()[1] == "no"
    assert "\ninstalled   no\nto get it   locara-sidecar models import own FOLDER\n" in models("get", "own")[1]
    assert models("import", "own", str(write_model(tmp_path / "folder")))[0] == 0
    assert "\ninstalled   in /" in models("get", "own")[1]


@pytest.mark.slow
def test_an_import_that_was_not_done_is_not_said_to_have_succeeded(models, tmp_path):
    assert models("import", "mine", str(tmp_path / "mine"))[0] == 0
    assert models("import", "mine", str(tmp_path / "mine"))[0] == 0, "the same again"
    status, out, err = models("import", "mine", "/nowhere/at/all")
    assert (status, "is installed" in out, "There is no folder" in err) == (1, False, True)
    other = write_model(tmp_path / "other", seed=1)
    status, out, err = models("import", "mine", str(other))
    assert (status, "is installed" in out) == (1, False)
    assert "is already installed from a folder" in err
    assert "--replace" in err
    assert models("import", "mine", str(other), "--replace")[0] == 0
    assert models("verify", "mine")[0] == 0
    status, _, err = models("import", "pocket", str(other))
    assert (status, "cannot be imported" in err) == (1, True)


@pytest.mark.slow
def test_what_is_damaged_is_named_with_what_mends_it(models, tmp_path):
    models("import", "mine", str(tmp_path / "mine"))
    (file,) = (tmp_path / "cache" / "models").glob("*/transformer/config.json")
    file.unlink()
    file.write_text("{}")
    status, _, err = models("verify", "mine")
    assert status == 1
    assert "1 file of mine differs from what was installed: transformer/config.json. " in err
    assert models("download", "mine")[0] == 0
    assert models("verify", "mine")[0] == 0


def at_a_terminal(models, *words):
    """Return what a person at a terminal sees of a command that succeeds."""
    leader, follower = pty.openpty()
    process = models(*words, start=True, stdout=follower, stdin=follower)
    os.close(follower)
    shown = b""
    try:
        while data := os.read(leader, 4096):
            shown += data
    except OSError:  # how Linux reports that the other end is closed
        pass
    os.close(leader)
    assert process.wait(20) == 0
    process.stderr.close()
    return shown.decode()


@pytest.mark.slow
def test_a_download_draws_one_line_again_and_again(models, hub):
    hub.pace = 0.01
    text = at_a_terminal(models, "download", "mine")
    assert text.count("\x1b[1A") > 3
    assert "B/s" in text  # a busy machine does not get as far as megabytes
    assert " left" in text
    assert text.rstrip().splitlines()[-1].startswith("mine is installed")


@pytest.mark.slow
def test_an_import_and_a_check_draw_their_bars_too(models, tmp_path):
    shown = at_a_terminal(models, "import", "mine", str(tmp_path / "mine"))
    assert "━" in shown
    assert "reading" in shown
    assert "downloading" not in shown
    checked = at_a_terminal(models, "verify", "mine")
    assert "100 %  verifying  5 of 5 files" in checked
    assert checked.rstrip().splitlines()[-1].startswith("mine is intact")


@pytest.mark.slow
def test_the_users_token_file_opens_a_gated_model_and_without_it_the_page_is_named(models, hub, tmp_path):
    hub.repositories["org/mine"].gated = True
    status, _, err = models("download", "mine")
    assert (status, f"{hub.url}/org/mine" in err) == (1, True)
    assert "HF_TOKEN" in err
    assert "hf auth login" in err
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(hub.token)
    assert models("download", "mine")[0] == 0


@pytest.mark.slow
def test_a_download_that_was_killed_goes_on_in_a_new_process_where_it_stopped(models, hub, tmp_path):
    hub.pace = 0.05
    process = models("download", "mine", start=True, stdout=subprocess.PIPE)
    for line in process.stdout:
        if b"kB/s" in line or b"MB/s" in line:
            break
    process.kill()
    process.wait(20)
    process.stdout.close()
    process.stderr.close()
    parts = {partial.key_of(part): part.stat().st_size for part in (tmp_path / "cache" / "incoming").glob("*.part")}
    assert any(parts.values())
    hub.pace = 0.0
    hub.log.clear()
    assert models("download", "mine")[0] == 0
    asked = {request.path.rpartition("/")[2]: request.headers.get("range") for request in hub.requests("/cdn/")}
    begun = {name for name, size in parts.items() if size and name in asked}
    assert begun
    assert {asked[name] for name in begun} == {f"bytes={parts[name]}-" for name in begun}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["download", "verify"])
def test_ctrl_c_ends_it_in_order_and_what_has_come_stays(models, hub, tmp_path, verb):
    if verb == "verify":
        folder = write_model(tmp_path / "catalogue" / "big")
        with (folder / "notes.bin").open("wb") as file:
            file.truncate(8 << 30)
        (tmp_path / "catalogue" / "mine.json").write_text(json.dumps(entry_data(source={"path": "big"})))
    hub.pace = 0.1
    process = models(verb, "mine", start=True, stdout=subprocess.PIPE)
    for line in process.stdout:
        if verb == "verify" or b"MB/s" in line or b"kB/s" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read() == b"locara-sidecar: The request was cancelled.\n"
    process.stdout.close()
    process.stderr.close()
    if verb == "download":
        assert list((tmp_path / "cache" / "incoming").glob("*.part"))


@pytest.mark.slow
@pytest.mark.mlx
def test_a_model_is_prepared_shown_and_only_that_is_removed(models):
    words = ("prepare", "pocket", "--engine", "mlx", "--quantization", "4bit")
    status, out, err = models(*words)
    assert (status, err) == (0, "")
    assert {"reading", "verifying"} <= set(out.split())
    assert out.splitlines()[-1].startswith("pocket is prepared for mlx in 4bit, float32: ")
    assert models(*words)[1].splitlines()[-1] == out.splitlines()[-1]
    assert "prepared    mlx 4bit, float32, " in models("get", "pocket")[1]
    assert models("usage")[1].splitlines()[2].split()[:3] == ["pocket", "4", "bits"]
    assert models("remove", "pocket", "--prepared")[1].startswith("removed pocket as prepared in 4bit (sha256:")
    status, _, err = models("remove", "pocket", "--prepared")
    assert (status, err) == (1, "locara-sidecar: A prepared form of pocket is not in the model cache.\n")


@pytest.mark.mlx
def test_ctrl_c_ends_preparing_and_leaves_nothing(models, tmp_path):
    incoming = tmp_path / "cache" / "incoming"
    words = ("prepare", "pocket", "--engine", "mlx", "--quantization", "4bit")
    with models(*words, start=True, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(incoming.glob("tree-*/made")):  # from here on, the engine has to start first
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "The request was cancelled." in err
    assert list(incoming.iterdir()) == []
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_an_engine_that_keeps_no_prepared_models_is_said_to(models):
    status, _, err = models("prepare", "pocket", "--engine", "torch", "--quantization", "4bit")
    assert status == 1
    assert "Only mlx does." in err


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_said_with_what_goes_on_later(models, hub):
    hub.close()
    status, _, err = models("download", "mine")
    assert status == 1
    assert err.splitlines()[1:] == ["To go on where it stopped: locara-sidecar models download mine"]
