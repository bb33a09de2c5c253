"""The script for one afternoon on a Mac runs anywhere, says what it could not do, and survives failing parts."""

import json
import os
import plistlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from macos import check, commands, inside, live
from support.synthetic import PUBLISHED

TOLD = [sys.executable, "-c", """print('{"enforced": true}')"""]
LOG = """\
Timestamp               Ty Process[PID:TID]
2026-11-30 17:00:01.123 E  kernel[0:1a2b] (Sandbox) Sandbox: python3.12(4711) deny(1) file-read-data /Users
2026-11-30 17:00:01.124 E  kernel[0:1a2b] (Sandbox) Sandbox: python3.12(4711) deny(1) mach-lookup com.apple.lsd.open
2026-11-30 17:00:02.001 E  kernel[0:1a2c] (Sandbox) Sandbox: Python(4712) deny(1) mach-lookup com.apple.lsd.open
2026-11-30 17:00:02.002 E  kernel[0:1a2c] (Sandbox) Sandbox: python3.12(4713) deny(1) file-read-data /Users
"""


def part(run, **more):
    return check.Part(run, mac=False, look="", **more)


@pytest.mark.mlx
def test_where_there_is_no_metal_the_kernels_for_norms_are_not_trusted_and_the_times_are_of_mlxs_own(tmp_path):
    pytest.importorskip("mlx")
    told = commands.read(commands.python("-c", inside.NORMS, str(tmp_path), "16", seconds=300))["told"]
    assert told["device"] == "cpu"
    assert list(told["trusted"].values()) == [False] * 3
    assert min(told["plain_s"], told["own_s"]) > 0


@pytest.mark.mlx
@pytest.mark.timeout(300)  # MLX compiles each model's blocks
def test_where_there_is_no_metal_the_kernel_for_queries_and_keys_is_not_trusted_and_mlxs_own_is_timed(tmp_path):
    pytest.importorskip("mlx")
    shapes = inside.shapes_of_heads()
    program = commands.python("-c", inside.HEADS, str(tmp_path), "8", json.dumps(shapes), seconds=300)
    told = commands.read(program)["told"]
    assert told["device"] == "cpu"
    assert list(told["trusted"].values()) == [False] * 3 * len(shapes)
    assert set(told["plain"]) == set(told["own"]) == set(shapes)
    times = [*told["plain"].values(), *told["own"].values()]
    assert min(took for both in times for took in both.values()) > 0


@pytest.mark.mlx
def test_the_kernel_for_queries_and_keys_is_tried_for_each_models_own_heads():
    """As the engine itself reads them from the models' configurations."""
    pytest.importorskip("mlx")
    from locara_sidecar.engine.mlx_engine.denoisers import flux, flux2, mmdit, zimage

    denoisers = {
        "FluxTransformer2DModel": flux.Flux,
        "Flux2Transformer2DModel": flux2.Flux2Transformer,
        "SD3Transformer2DModel": mmdit.Mmdit,
        "ZImageTransformer2DModel": zimage.ZImageTransformer,
    }
    transformers = {name: it for name, it in PUBLISHED.items() if it.class_name.endswith("Transformer2DModel")}
    configs = {
        name: msgspec.convert(it.config, denoisers[it.class_name].config_type) for name, it in transformers.items()
    }
    expected = {name: config.rotated_heads for name, config in configs.items()}
    assert {name: heads for name, (heads, _, _) in inside.shapes_of_heads().items()} == expected


def test_what_is_about_macos_is_not_claimed_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    only_there = [name for name, part in check.PARTS.items() if part.mac]
    assert {
        *("metal", "norms", "heads", "open", "exfat", "tcc", "power", "app-sandbox"),
        *("tests", "slow", "types", "prepare", "steps", "half"),
    } == set(only_there)
    found = check.report(only_there, tmp_path / "report.json", lambda _: None)
    assert {part["outcome"] for part in found.values()} == {check.NOT_HERE}
    assert all(part["look"] for part in found.values())


def test_a_part_that_fails_does_not_take_the_others_with_it(monkeypatch, tmp_path):
    def breaks():
        raise ZeroDivisionError("of this part")

    parts = {
        "breaks": part(breaks),
        "fails": part(lambda: commands.command([sys.executable, "-c", "exit(3)"], 60)),
        "works": part(lambda: {"ok": True, "found": 1}),
        "logs": part(lambda: {"ok": os.write(2, b"a line\nanother\n") > 0}),
        "says": part(lambda: {"ok": True, "one": {"stdout": "a\nb\n", "stderr": ""}, "word": "c\n"}),
        "prints": part(lambda: commands.read(commands.command(TOLD, 60))),
        "unseen": part(lambda: {"ok": True, "unseen": "why"}),
    }
    monkeypatch.setattr(check, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["check", "--only", *parts, "--report", str(tmp_path / "report.json")])
    assert check.main() == 1
    found = json.loads((tmp_path / "report.json").read_text())
    assert [part["outcome"] for part in found.values()] == ["FAILED", "FAILED", *["ok"] * 4, check.NOT_SEEN]
    assert found["logs"]["log"] == ["a line", "another"]
    assert "log" not in found["works"]
    assert (found["says"]["one"], found["says"]["word"]) == ({"stdout": ["a", "b"], "stderr": ""}, "c\n")
    assert found["prints"]["told"] == {"enforced": True}
    assert found["works"]["took"] >= 0
    assert "ZeroDivisionError" in found["breaks"]["error"]
    assert any("in breaks" in line for line in found["breaks"]["where"])
    assert found["fails"]["status"] == 3
    assert found["works"]["found"] == 1
    monkeypatch.setattr(sys, "argv", ["check", "--only", "works", "--report", str(tmp_path / "report.json")])
    assert check.main() == 0


def test_what_was_found_is_in_the_report_when_a_later_part_is_broken_off_and_stays_when_that_is_run_again(
    monkeypatch, tmp_path
):
    def broken_off():
        raise KeyboardInterrupt

    path = tmp_path / "report.json"
    monkeypatch.setattr(
        check,
        "PARTS",
        {"first": part(lambda: {"ok": True, "found": 1}), "second": part(broken_off)},
    )
    with pytest.raises(KeyboardInterrupt):
        check.report(["first", "second"], path, lambda _: None)
    assert list(json.loads(path.read_text())) == ["first"]
    monkeypatch.setitem(check.PARTS, "second", part(lambda: {"ok": True, "found": 2}))
    assert list(check.report(["second"], path, lambda _: None)) == ["second"]
    whole = json.loads(path.read_text())
    assert [(name, each["found"]) for name, each in whole.items()] == [("first", 1), ("second", 2)]
    assert all(each["at"] and "commit" in each for each in whole.values())


LATE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("started", child.pid, flush=True)
time.sleep(600)
"""


def pid_of(found):
    return int(found["stdout"].split()[1])


def has_ended(pid):
    try:
        return psutil.Process(pid).wait(20) is None
    except psutil.NoSuchProcess:
        return True


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started_and_what_it_said_is_kept():
    found = commands.command([sys.executable, "-c", LATE], 6)
    assert (found["ok"], found["status"]) == (False, "not over after 6 s")
    assert has_ended(pid_of(found))


def test_a_part_that_takes_too_long_is_ended_and_nothing_else():
    def waits():
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
            return {"ok": True, "status": child.wait()}

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        found = check.seen(part(waits, seconds=0.5))
        assert other.poll() is None, "it was there before"
        other.kill()
    assert (found["outcome"], found["status"]) == ("FAILED", -signal.SIGKILL)
    assert "killed" in found["late"]


def test_denials_are_counted_without_times_and_processes():
    assert commands.counted(LOG) == {
        "python3.12 deny(1) file-read-data /Users": 2,
        "python3.12 deny(1) mach-lookup com.apple.lsd.open": 1,
        "Python deny(1) mach-lookup com.apple.lsd.open": 1,
    }


def test_what_the_sandbox_denied_meanwhile_is_in_the_report_of_a_mac(monkeypatch):
    asked = []

    def log(words, *_, **__):
        asked.append(words)
        return {"ok": True, "stdout": LOG}

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(commands, "command", log)
    found = check.seen(part(lambda: {"ok": True}, denials=True))
    assert found["denials"]["python3.12 deny(1) file-read-data /Users"] == 2
    assert asked[0][:3] == ["/usr/bin/log", "show", "--start"]
    assert all(check.PARTS[name].denials for name in ("sandbox", "metal", "open", "app-sandbox"))


def test_only_what_computes_on_the_gpu_inside_a_profile_is_metal_s():
    told = {"kind": "seatbelt", "gpu": True, "finite": True}
    assert inside.computes({"ok": True, "told": told})
    for wrong in ({"kind": "none"}, {"gpu": False}, {"finite": False}):
        assert not inside.computes({"ok": True, "told": told | wrong})
    assert not inside.computes({"ok": False, "told": told})
    assert not inside.computes({"ok": True, "stdout": "killed"})


def test_programs_are_helpless_only_if_they_fail_and_give_nothing():
    tried = {
        **{f"/usr/bin/{name}": ["PermissionError", "", 0] for name in ("open", "osascript")},
        **{f"/usr/bin/{name}": [1, "", 0] for name in ("pbpaste", "mdfind", "curl")},
    }
    assert inside.is_helpless(tried)
    assert inside.is_helpless({**tried, "/usr/bin/pbpaste": [0, "", 0]})
    assert not inside.is_helpless({**tried, "/usr/bin/open": [0, "", 0]})
    assert not inside.is_helpless({**tried, "/usr/bin/curl": [0, "", 8]})


@pytest.mark.skipif(sys.platform == "win32", reason="names programs of POSIX")
def test_what_other_programs_are_asked_for_is_there_to_be_had():
    reach = [sys.executable, "-c", "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"]
    with inside._served() as address:
        told = inside._ask("", [[*reach, address], ["/nonexistent/program"]])["told"]
    assert told[sys.executable] == [0, "", len("reached\n\n")]
    assert told["/nonexistent/program"][0] == "FileNotFoundError"


CANCELLED = {"ok": True, "kind": "RequestCancelled", "seconds": 0.1}


@pytest.mark.parametrize(
    ("listing", "saves", "outcome", "answer"),
    [
        ("import time; time.sleep(1)", True, "ok", "allowed"),
        ("import time; time.sleep(1); exit(1)", False, "ok", "denied"),
        ("import time; time.sleep(1); exit(1)", True, "FAILED", "denied"),
        ("import time; time.sleep(1)", False, "FAILED", "allowed"),
        ("pass", True, check.NOT_SEEN, "was allowed before, so macOS did not ask"),
        ("exit(1)", False, check.NOT_SEEN, "was denied before, so macOS did not ask"),
    ],
)
def test_what_a_question_about_documents_holds_up_is_seen_only_where_it_is_asked(
    monkeypatch, tmp_path, capsys, listing, saves, outcome, answer
):
    def draw(out):
        if saves:
            Path(out).touch()
        return {
            "stderr": "" if saves else "macOS denies this app access; … System Settings …",
            "status": int(not saves),
        }

    monkeypatch.setattr(check, "_draw", draw)
    monkeypatch.setattr(live, "cancel_while_asked", lambda folder: CANCELLED)
    patience = 0.2 if "sleep" in listing else 40.0
    found = check.seen(part(lambda: check._tcc(tmp_path, listing, patience)))
    assert (found["outcome"], found["answer"]) == (outcome, answer)
    assert ("now answer" in capsys.readouterr().out) is (found["cancelled"] == CANCELLED)
    assert os.listdir(tmp_path) == []


def test_all_failures_and_skips_of_the_tests_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(check, "command", lambda words, *_, **more: told.append((words, more)) or {"ok": True})
    check.PARTS["tests"].run()
    check.PARTS["slow"].run()
    assert [words for words, _ in told] == [["make", "test"], ["make", "test-slow"]]
    for _, more in told:
        assert "-rfEs" in more["env"]["PYTEST_ADDOPTS"]
        assert more["tail"] > 100_000


def test_lines_of_json_are_read_too_and_other_words_stay():
    found = commands.read({"stdout": 'MLX on metal\n{"model": "a"}\n{"model": "b"}\n'})
    assert found["told"] == [{"model": "a"}, {"model": "b"}]
    assert "MLX on metal" in found["stdout"]
    assert commands.read({"stdout": "words"}) == {"stdout": "words"}


def test_the_snippets_that_run_confined_are_python():
    for name in ("COMPUTES", "ASKS"):
        compile(getattr(inside, name), name, "exec")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_parts_with_a_real_daemon_find_it_as_it_should_be(tmp_path):
    cancelled = live.cancel_in_step("fake")
    assert cancelled["ok"], cancelled
    assert (cancelled["model"]["engine"], cancelled["residentSize"] > 0) == ("fake", True)
    assert live.kill_daemon("fake")["ok"]
    asked = live.cancel_while_asked(tmp_path, "fake", after=0)
    assert asked["ok"], asked
    awake = live.awake_while_drawing(lambda: "nothing", "fake")
    assert (awake["before"], awake["during"], awake["after"]) == ("nothing",) * 3


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_a_sidecar_behind_the_app_of_the_check_gets_open_files(tmp_path):
    from macos import app_sandbox

    program = app_sandbox.build(tmp_path, [tmp_path, Path("/usr/lib")])
    info = plistlib.loads((program.parents[1] / "Info.plist").read_bytes())
    assert (info["CFBundleExecutable"], info["CFBundleIdentifier"]) == (program.name, app_sandbox.IDENTIFIER)
    allowed = plistlib.loads((tmp_path / "entitlements.plist").read_bytes())
    assert allowed["com.apple.security.app-sandbox"] is True
    found = live.open_files(tmp_path, [str(program)], "fake")
    assert found["ok"], found
    assert found["byPath"] == "opened"  # nothing confines it here


def test_an_app_that_cannot_be_signed_says_why(monkeypatch, tmp_path):
    from macos import app_sandbox

    monkeypatch.setattr(app_sandbox.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="xcode-select"):
        app_sandbox.build(tmp_path, [])
