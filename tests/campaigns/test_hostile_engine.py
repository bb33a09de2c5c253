"""The campaign of a hostile engine: some of its acts in the lightest engine's process, and one that is not confined."""

import os
import sys

import pytest

from campaigns import hostile_engine
from locara_sidecar.engine.sandbox import call_numbers
from support.evil import all_acts

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the acts are Linux's"),
    pytest.mark.skipif(os.uname().machine not in call_numbers.ARCHITECTURES, reason="no call filter on this machine"),
    pytest.mark.timeout(300),
]
USERS = ["root", "nobody"] if os.name == "posix" and os.getuid() == 0 else [""]


def test_there_are_acts_of_every_part_and_each_has_a_name_of_its_own():
    names = [(act.part, act.name) for act in all_acts()]
    assert len(names) == len(set(names)) >= 100
    assert {part for part, _ in names} == {
        *("files", "own processes", "other processes", "network", "shared", "kernel", "privileges"),
    }


@pytest.mark.parametrize("user", USERS)
def test_what_an_engine_tries_with_its_own_and_with_other_processes_is_held(user):
    rows = hostile_engine.run("fake", user, ["own processes", "other processes"])
    assert [(row.name, row.figure) for row in rows if row.met is False] == []
    assert len(rows) > 40


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_all_that_an_engine_tries_is_held(user):
    rows = hostile_engine.run("fake", user)
    assert [(row.name, row.figure) for row in rows if row.met is False] == []


def test_an_engine_that_is_not_confined_is_noticed(monkeypatch, tmp_path):
    """Its daemon's code is the real one, its sandbox is not there."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'support.evil.engine' in ' '.join(sys.orig_argv):\n"
        "    from locara_sidecar.engine import sandbox\n"
        "    sandbox.confine = lambda *_, **__: None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
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
