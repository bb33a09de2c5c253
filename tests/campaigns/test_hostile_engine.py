"""The campaign of a hostile engine: some of its acts in the lightest engine's process, and one that is not confined."""

import os
import subprocess
import sys

import pytest

from campaigns import hostile_engine
from locara_sidecar.engine.sandbox.linux import call_numbers
from support.evil import all_acts, hearing

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the acts are Linux's"),
    pytest.mark.skipif(os.uname().machine not in call_numbers.ARCHITECTURES, reason="no call filter on this machine"),
    pytest.mark.timeout(300),
]
USERS = ["root", "nobody"] if os.name == "posix" and os.getuid() == 0 else [""]


@pytest.fixture(scope="module")
def offered():
    """Skip where the system offers no complete confinement."""
    words = [sys.executable, "-m", "locara_sidecar.engine.sandbox", "--probe"]
    if (done := subprocess.run(words, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"no whole confinement here: {done.stdout}")


def held(user, *parts):
    """Return the rows of the lightest engine, all of which must have been blocked."""
    rows = hostile_engine.run("fake", user, parts)
    if rows[0].met is None and len(rows) == 1:
        pytest.skip(f"nobody can be {user} here")
    assert [(row.name, row.figure) for row in rows if row.met is False] == []
    return rows


def test_there_are_acts_of_every_part_and_each_has_a_name_of_its_own():
    names = [(act.part, act.name) for act in all_acts()]
    assert len(names) == len(set(names)) >= 100
    assert {part for part, _ in names} == {
        *("files", "own processes", "other processes", "network", "shared", "resources", "kernel", "privileges"),
    }


@pytest.mark.parametrize("user", USERS)
def test_what_an_engine_tries_with_its_own_and_with_other_processes_is_held(offered, user):
    assert len(held(user, "own processes", "other processes")) > 40


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_all_that_an_engine_tries_is_held(offered, user):
    assert len(held(user)) > 100


def heard(user, *parts):
    """Return the rows of what is said to a daemon, all of which must have been rejected."""
    rows = hostile_engine.run_words(user, parts)
    if len(rows) == 1 and rows[0].met is None:
        pytest.skip(f"nobody can be {user} here")
    assert [(row.name, row.figure, row.note) for row in rows if row.met is False] == []
    return rows


def test_what_an_engine_says_has_rows_of_every_part_and_each_has_a_name_of_its_own():
    names = hearing.acts()
    assert len(names) == len(set(names)) >= 70
    assert {part for part, _ in names} == {"starting", "answers", "errors", "bytes", "floods", "prepared"}


def test_an_engine_that_speaks_for_others_is_not_believed_by_a_real_daemon():
    assert len(heard(USERS[0], "errors")) > 5


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_all_that_an_engine_says_and_makes_is_held_by_a_real_daemon(user):
    assert len(heard(user)) > 70


@pytest.mark.slow
def test_a_daemon_that_believes_its_engine_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'support.evil' in ' '.join(sys.orig_argv):\n"
        "    from locara_sidecar.daemon.engine_host.output import screen\n"
        "    screen.Screen.check = lambda *_: None\n"
    )
    real = hostile_engine.running.environment
    monkeypatch.setattr(
        hostile_engine.running,
        "environment",
        lambda: real() | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{real()['PYTHONPATH']}"},
    )
    rows = hostile_engine.run_words(USERS[0], ["errors"])
    assert {row.figure for row in rows if row.met is False} >= {"CapabilityDenied", "LicenseNotAccepted"}


@pytest.mark.slow
def test_an_engine_that_is_not_confined_is_noticed(monkeypatch, tmp_path):
    """Its daemon's code is real, but its sandbox is missing."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'support.evil.engine' in ' '.join(sys.orig_argv):\n"
        "    from locara_sidecar.engine import sandbox\n"
        "    sandbox.confine = lambda *_, **__: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(hostile_engine, "_SECONDS", 2)  # what is left behind here stays running
    real = hostile_engine.running.environment
    monkeypatch.setattr(
        hostile_engine.running,
        "environment",
        lambda: real() | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{real()['PYTHONPATH']}"},
    )
    rows = hostile_engine.run("fake", USERS[0], ["own processes"])
    missed = [row.name for row in rows if row.met is False]
    assert any("fork" in name for name in missed)
    assert any("children left behind" in name for name in missed)
