"""The script for one afternoon on a Mac runs anywhere, says what it could not do, and survives failing parts."""

import json
import os
import plistlib
import shutil
import sys
from pathlib import Path

import pytest

from macos import check

TOLD = [sys.executable, "-c", """print('{"enforced": true}')"""]


def test_what_is_about_macos_is_not_claimed_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    only_there = [name for name, part in check.PARTS.items() if part.mac]
    assert {
        *("metal", "open", "exfat", "tcc", "power", "app-sandbox"),
        *("tests", "slow", "types", "prepare", "steps"),
    } == set(only_there)
    found = check.report(only_there, lambda _: None)
    assert {part["outcome"] for part in found.values()} == {check.NOT_HERE}
    assert all(part["look"] for part in found.values())


def test_a_part_that_fails_does_not_take_the_others_with_it(monkeypatch, tmp_path):
    def breaks():
        raise ZeroDivisionError("of this part")

    parts = {
        "breaks": check.Part(breaks, mac=False, look=""),
        "fails": check.Part(lambda: check._command([sys.executable, "-c", "exit(3)"], 60), mac=False, look=""),
        "works": check.Part(lambda: {"ok": True, "found": 1}, mac=False, look=""),
        "logs": check.Part(lambda: {"ok": os.write(2, b"a line\nanother\n") > 0}, mac=False, look=""),
        "prints": check.Part(lambda: check._read(check._command(TOLD, 60)), mac=False, look=""),
    }
    monkeypatch.setattr(check, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["check", "--only", *parts, "--report", str(tmp_path / "report.json")])
    assert check.main() == 1
    found = json.loads((tmp_path / "report.json").read_text())
    assert [part["outcome"] for part in found.values()] == ["FAILED", "FAILED", "ok", "ok", "ok"]
    assert found["logs"]["log"] == ["a line", "another"]
    assert "log" not in found["works"]
    assert found["prints"]["told"] == {"enforced": True}
    assert found["works"]["took"] >= 0
    assert "ZeroDivisionError" in found["breaks"]["error"]
    assert any("in breaks" in line for line in found["breaks"]["where"])
    assert found["fails"]["status"] == 3
    assert found["works"]["found"] == 1


def test_the_snippets_that_run_confined_are_python():
    for name in ("_INSIDE", "_OPEN"):
        compile(getattr(check, name), name, "exec")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_parts_with_a_real_daemon_find_it_as_it_should_be(tmp_path):
    from macos import live

    cancelled = live.cancel_in_step("fake")
    assert cancelled["ok"], cancelled
    assert live.kill_daemon("fake")["ok"]
    asked = live.cancel_while_asked(tmp_path, "fake", after=0)
    assert asked["ok"], asked
    awake = live.awake_while_drawing(lambda: "nothing", "fake")
    assert (awake["before"], awake["during"], awake["after"]) == ("nothing",) * 3


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_a_sidecar_behind_the_app_of_the_check_gets_open_files(tmp_path):
    from macos import app_sandbox, live

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
