"""Whatever goes wrong, a person reads a sentence: no traceback, no log line, and what to type where that helps."""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.cli import arguments, values
from locara_sidecar.cli.commands import models as models_command
from locara_sidecar.cli.output import guard
from locara_sidecar.machine import bundle, engine_choice
from locara_sidecar.models.cache import collect
from support.model_store import entry_data

RUN = [sys.executable, "-m", "locara_sidecar"]


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run a command in this process; return (status, stdout, stderr)."""
    monkeypatch.setenv("LOCARA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    handlers = logging.getLogger().handlers[:]

    def run(*words):
        try:
            status = arguments.run([str(word) for word in words])
        except SystemExit as ended:
            status = ended.code
        shown = capsys.readouterr()
        for text in shown:
            assert "Traceback" not in text
            assert '{"ts"' not in text
        return status, shown.out, shown.err

    yield run
    logging.getLogger().handlers[:] = handlers


# --- engines -----------------------------------------------------------------------------------


def test_without_any_engine_that_is_said_with_what_installs_one(cli, monkeypatch):
    monkeypatch.setattr(engine_choice, "missing", lambda name: [name])
    status, out, _ = cli("models", "list")
    _, _, _, *rows, last = out.splitlines()
    assert status == 0
    assert all(" no engine " in row for row in rows)
    assert "pip install 'locara-sidecar[" in last
    assert "pip install 'locara-sidecar[" in cli("models", "get", "pocket")[1]


def test_without_any_engine_a_shipped_folder_says_what_its_app_must_do_and_nothing_of_pip(cli, monkeypatch, tmp_path):
    for name in (bundle.SUMS, bundle.FACTS):
        (tmp_path / name).touch()
    monkeypatch.setattr(bundle.sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setattr(engine_choice, "missing", lambda name: [name])
    _, out, _ = cli("models", "list")
    assert "so nothing can be drawn; this folder was built without one; its app must ship one" in out
    assert "make bundle ENGINE=" in out
    assert "pip install" not in out
    for engine in engine_choice.engines("torch", None)[:-1]:
        assert engine.reason.startswith(f"Not installed: {engine.name}. This folder was built without it; its app")
        assert engine.reason.endswith(f"make bundle ENGINE={engine.name}.")


@pytest.mark.parametrize(("apple", "first"), [(False, "torch"), (True, "mlx")])
def test_what_is_said_to_fit_is_for_the_engine_that_auto_takes(cli, monkeypatch, apple, first):
    monkeypatch.setattr(engine_choice, "missing", lambda name: [])
    monkeypatch.setattr(engine_choice, "on_apple_silicon", lambda: apple)
    assert engine_choice.choose_engine("auto") == first
    rows = [model["recommended"] for model in json.loads(cli("models", "list", "--json")[1])["models"]]
    assert {row["engine"] for row in rows if row is not None} == {first}
    _, head, _, *rows = cli("models", "list")[1].splitlines()
    assert f"Fits {first} " in head
    assert next(row for row in rows if row.startswith("pocket ")).split()[:3] == ["pocket", "yes", "yes"]


# --- the catalogue and the cache -----------------------------------------------------------------


def test_a_broken_file_in_the_catalogue_is_named_and_stops_nothing(cli, tmp_path):
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "broken.json").write_text("{")
    (tmp_path / "entries" / "mine.json").write_text(json.dumps(entry_data()))
    status, out, err = cli("models", "list", "--catalogue", tmp_path / "entries")
    assert (status, out.splitlines()[3].startswith("mine ")) == (0, True)
    assert err.startswith(f"locara-sidecar: left out of the catalogue: {tmp_path / 'entries' / 'broken.json'}: ")
    status, _, err = cli("models", "get", "broken", "--catalogue", tmp_path / "entries")
    assert (status, "broken.json." in err) == (1, True)


def test_a_daemon_tells_of_a_broken_file_in_the_catalogue_and_serves(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    words = ["serve", "--engine", "fake", "--catalogue", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    lines = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    done = subprocess.run([*RUN, *words], input=lines, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["result"]
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    assert [str(tmp_path / "broken.json") in line["file"] for line in logged if "file" in line] == [True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("models", "list", "--catalogue", "NOWHERE"), "is not a folder"),
        (("models", "usage", "--cache-dir", "FILE"), "the model cache must be a folder"),
        (("models", "gc", "--cache-dir", "FILE"), "the model cache must be a folder"),
        (("models", "import", "sd3.5-medium", "FILE"), "is not a folder"),
        (("models", "import", "sd3.5-medium", "NOWHERE"), "There is no folder"),
        (("models", "verify", "sd3.5-medium"), "To install it: locara-sidecar models download sd3.5-medium"),
        (("models", "get", "nothing"), "To see all models: locara-sidecar models list"),
        (("demo", "--engine", "fake", "--out", "FILE"), "--out needs a writable folder"),
        (("demo", "--engine", "fake", "--out", "FILE/below"), "--out needs a writable folder"),
        (("demo", "--engine", "fake", "--out", "OUT", "--transcript", "NOWHERE/x"), "No such file or directory"),
        (("demo", "--engine", "fake", "--out", "OUT", "--catalogue", "NOWHERE"), "is not a folder"),
        (("demo", "--engine", "fake", "--out", "OUT", "--seed", "-1"), "--seed must be an integer from 0"),
        (("demo", "--engine", "torch", "--out", "OUT", "--model", "sd3.5-medium"), "To install it: locara-sidecar"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_what_is_wrong_is_said_in_a_sentence(cli, tmp_path, words, said):
    (tmp_path / "file").write_text("")
    places = {"FILE": tmp_path / "file", "NOWHERE": tmp_path / "nowhere", "OUT": tmp_path / "out"}
    for name, place in places.items():
        words = tuple(word.replace(name, str(place)) for word in words)
    status, _, err = cli(*words)
    assert status == 1
    assert err.startswith("locara-sidecar: ")
    assert said in err


def test_a_cache_that_may_only_be_read_is_named(cli, tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system", str(tmp_path / "cache" / "models" / "a"))

    monkeypatch.setattr(collect, "plan_gc", read_only)
    assert cli("models", "gc") == (1, "", f"locara-sidecar: {tmp_path}/cache/models/a: Read-only file system\n")


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *[
            ("0", 0),
            ("500", 500),
            ("500B", 500),
            ("1K", 1000),
            ("1kB", 1000),
            ("1M", 10**6),
            ("1G", 10**9),
            ("1gb", 10**9),
        ],
        *[("2T", 2 * 10**12), ("1KiB", 1024), ("1MiB", 2**20), ("1 GiB", 2**30), ("1Gi", 2**30), ("1TiB", 2**40)],
        *[("1.5G", 1_500_000_000), ("0.1GB", 10**8)],
    ],
)
def test_a_size_may_have_a_unit(text, count):
    assert values.size(text) == count


@pytest.mark.parametrize("text", ["", "G", "1X", "-1", "1e9", "1,5G", "1GG", "inf", "1i", "١G", "1.G", "9" * 40])
def test_what_is_no_size_is_a_usage_error(cli, text):
    with pytest.raises(argparse.ArgumentTypeError):
        values.size(text)
    status, _, err = cli("models", "gc", f"--max-bytes={text}")
    assert (status, "20GiB" in err) == (2, True)


# --- where the output goes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("{run} models list | head -1; exit ${{PIPESTATUS[0]}}", 0),
        ("{run} models list >/dev/full", 1),
        ("{run} models list >&-", 0),
        ("{run} models get nothing 2>&-", 1),
        ("PYTHONIOENCODING=ascii {run} models get pocket", 0),
        ("COLUMNS=40 NO_COLOR=1 TERM=dumb {run} models list", 0),
    ],
)
def test_a_pipe_that_ends_a_full_disk_or_a_poor_terminal_is_borne(tmp_path, shell, status):
    if "/dev/full" in shell and not os.path.exists("/dev/full"):
        pytest.skip("there is no such device here")
    script = shell.format(run=f"{sys.executable} -m locara_sidecar")
    env = {**os.environ, "LOCARA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "full" in shell:
        assert done.stderr == "locara-sidecar: No space left on device\n"


@pytest.mark.slow
def test_ctrl_c_while_the_demo_draws_is_a_sentence(tmp_path):
    words = ["demo", "a lake", "--engine", "fake", "--steps", "200", "--out", str(tmp_path / "out")]
    with subprocess.Popen([*RUN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        for line in demo.stdout:
            if "step" in line:
                break
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate(timeout=20)
    assert demo.returncode == 130
    assert err == "locara-sidecar: The request was cancelled.\n"


# --- our own bugs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("no such module"), ""),
        (OSError(2, "no such file", "/a"), "locara-sidecar: /a: no such file\n"),
        (RpcError("IntegrityError", "A file is damaged."), "locara-sidecar: A file is damaged.\n"),
    ],
)
def test_what_failed_as_an_update_replaced_our_files_is_no_bug_and_the_user_is_told(
    cli, tmp_path, monkeypatch, error, said
):
    def fail(*_):
        raise error

    monkeypatch.setattr(guard.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(guard.own_files, "are_replaced", lambda: True)
    monkeypatch.setitem(models_command._RUN, "list", fail)
    updated = "locara-sidecar: An update replaced the sidecar's files while this command ran. Run it again.\n"
    assert cli("models", "list") == (1, "", said + updated)
    assert list(tmp_path.glob("locara-fault-*.txt")) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("boom"), OSError(5, "input/output error", "/a")])
def test_what_nobody_foresaw_is_written_to_a_file_that_is_named(cli, tmp_path, monkeypatch, error):
    def fail(*_):
        logging.getLogger("locara.models").error("a worker failed", extra={"fields": {"trace": "x"}})
        raise error

    monkeypatch.setattr(guard.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(models_command._RUN, "list", fail)
    status, _, err = cli("models", "list")
    (line,) = err.splitlines()
    if isinstance(error, KeyboardInterrupt):
        assert (status, line) == (130, "locara-sidecar: The request was cancelled.")
    elif isinstance(error, OSError):
        assert (status, line) == (1, "locara-sidecar: /a: input/output error")
    else:
        (file,) = tmp_path.glob("locara-fault-*.txt")
        assert (status, str(file) in line) == (1, True)
        assert "boom" in file.read_text()


@pytest.mark.parametrize("fault", ["fake:crash=denoising", "fake:error", "fake:nan"])
def test_a_fault_under_the_demo_is_a_sentence_and_the_log_is_named_where_it_has_more(cli, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(guard.tempfile, "tempdir", str(tmp_path))
    status, _, err = cli("demo", fault, "--engine", "fake", "--out", tmp_path / "out")
    first, *rest = err.splitlines()
    assert (status, first.startswith("locara-sidecar: ")) == (1, True)
    logs = list(tmp_path.glob("locara-log-*.txt"))
    assert rest == [f"Its log is in {log}" for log in logs]
    assert len(logs) == (fault == "fake:error"), "the others say all in their sentence"
    for log in logs:
        assert json.loads(log.read_text().splitlines()[0])["level"] in ("warning", "error")


@pytest.mark.slow
def test_a_demo_that_ends_well_leaves_no_log(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(guard.tempfile, "tempdir", str(tmp_path))
    assert cli("demo", "a lake", "--engine", "fake", "--out", tmp_path / "out")[0] == 0
    assert list(tmp_path.glob("locara-*")) == []


INTERRUPTED = """
import os, signal, sys
from locara_sidecar.__main__ import main
place = int(sys.argv.pop(1))

class Interrupting:  # plays Ctrl-C as the module of that number is looked for
    count = 0

    def find_spec(self, name, path=None, target=None):
        Interrupting.count += 1
        if Interrupting.count == place:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
try:
    main()
finally:
    print(Interrupting.count, file=sys.stderr)
"""


@pytest.mark.quick_cases("words0")
@pytest.mark.parametrize("words", [["models", "list"], ["doctor"]])
def test_ctrl_c_while_a_command_is_still_being_imported_is_a_sentence(tmp_path, words):
    env = {**os.environ, "LOCARA_CACHE_DIR": str(tmp_path)}

    def run(place):
        argv = [sys.executable, "-c", INTERRUPTED, str(place), *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)

    count = int(run(0).stderr)
    assert count > 50
    for place in (1, 2, 3, *range(4, count, count // 12)):
        done = run(place)
        assert (done.returncode, done.stdout) == (130, ""), (place, done.stderr)
        assert done.stderr.splitlines()[0] == "locara-sidecar: The request was cancelled.", place
        assert "Traceback" not in done.stderr, place


# --- a working folder that was deleted -------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.skipif(sys.platform == "win32", reason="a working folder cannot be deleted there")
@pytest.mark.parametrize(
    "words",
    [
        ("draw", "a cat", "--out", "cat.png"),
        ("edit", "cat.png", "a dog"),
        ("models", "import", "sdxl-lightning", "folder"),
        ("demo", "--engine", "fake", "--transcript", "lines.txt"),
    ],
    ids=lambda words: words[0],
)
def test_a_deleted_working_folder_is_what_is_told(cli, nowhere, words):
    status, _, err = cli(*words)
    assert status == 1
    assert "working folder was deleted" in err
    assert "absolute path" in err


@pytest.mark.skipif(sys.platform == "win32", reason="a working folder cannot be deleted there")
def test_a_file_that_is_missing_elsewhere_is_not_blamed_on_the_working_folder(nowhere):
    assert guard.reason(FileNotFoundError(2, "No such file or directory", "/a/b")) == "/a/b: No such file or directory"


def test_a_file_that_is_missing_in_the_working_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert guard.reason(FileNotFoundError(2, "No such file or directory", "b")) == "b: No such file or directory"
