"""The parts of the afternoon's script that only a Mac can run, on a played one: what they ask it for, and what of its
answers is good."""

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from macos import app_sandbox, check, half, live
from pocket_model import places


class Shell:
    """Plays the commands: each call is written down; ``said`` has what those print that begin so."""

    def __init__(self, said=None, fails=()):
        self.asked, self._said, self._fails = [], said or {}, fails

    def __call__(self, words, *_, **__):
        self.asked.append(words)
        line = " ".join(words)
        said = next((text for start, text in self._said.items() if line.startswith(start)), "")
        return {"ok": not any(word in line for word in self._fails), "stdout": said, "stderr": "", "status": 0}


@pytest.fixture
def played(monkeypatch):
    def play(shell):
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(check, "command", shell)
        return shell

    return play


def draw_without_replacing(out):
    path = Path(out)
    path = path if not path.exists() else path.with_stem(f"{path.stem}-2")
    path.touch()
    return {"ok": True}


def test_both_pictures_are_saved_on_an_exfat_image_that_is_detached_again(played, monkeypatch):
    mounts = []

    def draw(out):
        mounts.append(Path(out).parent)
        return draw_without_replacing(out)

    shell = played(Shell())
    monkeypatch.setattr(check, "_draw", draw)
    found = check._exfat()
    assert (found["ok"], found["names"]) == (True, ["star-2.png", "star.png"])
    create, attach, detach = shell.asked
    assert create[:2] == ["/usr/bin/hdiutil", "create"]
    assert "ExFAT" in create
    assert attach[attach.index("-mountpoint") + 1] == str(mounts[0]) == detach[-1]
    assert not mounts[0].exists()


def test_a_picture_that_replaced_the_other_or_an_image_that_cannot_be_made_is_no_success(played, monkeypatch):
    played(Shell())
    monkeypatch.setattr(check, "_draw", lambda out: Path(out).touch())
    assert not check._exfat()["ok"]
    shell = played(Shell(fails=("attach",)))
    assert not check._exfat()["ok"]
    assert len(shell.asked) == 2


OURS = 'pid 4711(Python): PreventUserIdleSystemSleep named: "Locara is drawing a picture"'
OTHERS = 'pid 99(caffeinate): PreventUserIdleSystemSleep named: "caffeinate command-line tool"'


@pytest.mark.parametrize(
    ("assertions", "power", "ok"),
    [
        ((OTHERS, OTHERS + OURS, OTHERS), {"lowPower": False}, True),
        ((OTHERS, OTHERS + OURS, OTHERS), None, False),
        (("", "", ""), {"lowPower": False}, False),
        (("", OURS, OURS), {"lowPower": False}, False),
    ],
)
def test_only_an_assertion_during_the_job_and_no_longer_is_good(played, monkeypatch, assertions, power, ok):
    told = dict(zip(("before", "during", "after"), assertions, strict=True)) | {"power": power}
    monkeypatch.setattr(live, "awake_while_drawing", lambda asked: told)
    shell = played(Shell({"/usr/bin/pmset -g therm": "no warning"}))
    found = check._power()
    assert (found["ok"], found["therm"]) == (ok, "no warning")
    assert all(words[:2] == ["/usr/bin/pmset", "-g"] for words in shell.asked)


def opened(kind, by_path, ok=True):
    return {"ok": ok, "byPath": by_path, "sandbox": {"kind": kind}}


@pytest.mark.parametrize(
    ("inside", "good"),
    [
        (opened("app-sandbox", ["StorageError", "EPERM"]), True),
        (opened("seatbelt", ["StorageError", "EPERM"]), False),
        (opened("app-sandbox", "opened"), False),
        (opened("app-sandbox", ["StorageError", "EPERM"], ok=False), False),
    ],
)
def test_an_app_s_sidecar_is_confined_keeps_paths_away_and_writes_what_was_handed_over(monkeypatch, inside, good):
    asked = []

    def open_files(place, before=()):
        asked.append(list(before))
        return inside if before else opened("seatbelt", "opened")

    monkeypatch.setattr(live, "open_files", open_files)
    monkeypatch.setattr(app_sandbox, "build", lambda place, readable: place / "program")
    found = check._app_sandbox()
    assert found["ok"] is good
    assert asked[0] == []
    assert asked[1][0].endswith("/program")


def test_the_app_is_signed_as_a_whole_with_its_entitlements(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", lambda words, **_: ran.append(list(words)))
    program = app_sandbox.build(tmp_path, [Path("/opt/python")])
    compiled, signed = ran
    assert compiled[:3] == ["cc", "-o", str(program)]
    assert signed[:4] == ["/usr/bin/codesign", "--force", "--sign", "-"]
    assert signed[-1].endswith("/LocaraCheck.app"), "the app, not its program alone"
    allowed = plistlib.loads(Path(signed[signed.index("--entitlements") + 1]).read_bytes())
    assert "/opt/python/" in allowed["com.apple.security.temporary-exception.files.absolute-path.read-only"]


def test_the_system_part_tells_which_mac_it_is(played):
    shell = played(Shell({"/usr/sbin/sysctl -n hw.model": "Mac14,2\n", "git status": " M a.py\n"}))
    found = check._system()
    assert (found["hw.model"], found["changedFiles"]) == ("Mac14,2", [" M a.py"])
    assert found["freeDisk"] > 0
    assert ["/usr/bin/getconf", "DARWIN_USER_CACHE_DIR"] in shell.asked


def test_what_makes_the_model_is_kept_in_the_cache_of_a_mac(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", "/Users/a")
    assert str(places.cache_folder()) == "/Users/a/Library/Caches/locara-pocket"


@pytest.mark.parametrize("wrong", [{"kind": "finished"}, {"ok": False}])
def test_a_cancel_that_waits_for_the_user_fails_the_part_about_documents(monkeypatch, tmp_path, wrong):
    cancelled = {"ok": True, "kind": "RequestCancelled"} | wrong
    monkeypatch.setattr(live, "cancel_while_asked", lambda folder: cancelled)
    monkeypatch.setattr(check, "_draw", lambda out: Path(out).touch() or {"stderr": "", "status": 0})
    assert not check._tcc(tmp_path, "import time; time.sleep(1)", 0.2)["ok"]


M1, M3 = ("MLX 0.32.4 on metal: Apple M1 Pro\n{…}\n", "MLX 0.32.4 on metal: Apple M3\n")


def steps(**seconds):
    return [
        {"model": model, "bits": 16, "precision": precision, "stepSeconds": taken}
        for model, both in seconds.items()
        for precision, taken in zip(("bfloat16", "float16"), both, strict=True)
    ]


@pytest.mark.parametrize(
    ("said", "seconds", "verdict"),
    [
        (M1, {"a": (10.0, 7.5), "b": (4.0, 3.6)}, "turn it on"),
        (M1, {"a": (10.0, 7.5), "b": (4.0, 3.9)}, "leave it off: float16 is not worth it with b:16"),
        (M3, {"a": (10.0, 7.5), "b": (4.0, 4.0)}, "no effect: this chip has bfloat16 (float16 is faster with 1 of 2"),
        (M1, {}, "unknown"),
        ("", {"a": (10.0, 7.5)}, "no effect"),
    ],
)
def test_times_in_both_types_make_a_verdict(said, seconds, verdict):
    found = half.judged(steps(**seconds), said)
    assert found["verdict"].startswith(verdict)
    assert found["ratios"] == {f"{model}:16": round(late / soon, 3) for model, (soon, late) in seconds.items()}


def test_models_that_were_left_out_or_failed_in_one_type_do_not_count():
    told = [*steps(a=(10.0, 7.5)), {"model": "b", "bits": 16, "precision": "bfloat16", "leftOut": "too large"}]
    told += steps(c=(1.0, 2.0))[:1]
    assert half.judged(told, M1)["ratios"] == {"a:16": 0.75}


@pytest.mark.mlx
@pytest.mark.slow
def test_the_verdicts_program_runs(monkeypatch):
    """With tiny models, on the processor."""
    pytest.importorskip("mlx")
    monkeypatch.setattr(half, "CASES", ("flux.2-klein-4b:16", "sd3.5-medium:16", "--tiny", "--size", "64"))
    found = half.half()
    assert found["ok"], found["stderr"]
    assert found["ratios"].keys() == {"flux.2-klein-4b:16", "sd3.5-medium:16"}
    assert found["verdict"].startswith("no effect")
