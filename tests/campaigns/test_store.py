"""The store's campaigns, a few rounds of each: they find nothing, except for their planted faults."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("fcntl")

from campaigns import connections, corruptions, powercut, readers
from locara_sidecar.capability.files.system import System
from locara_sidecar.machine.engine_choice import installed
from locara_sidecar.models.cache import disk

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """The campaigns switch syncing off, in this process too."""
    monkeypatch.setattr(disk, "_SYSTEM", System())
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.delenv("HF_ENDPOINT")
    monkeypatch.setenv("HF_HOME", "")
    monkeypatch.setenv("NO_PROXY", "")


def missed(rows):
    return [row for row in rows if row.met is False]


KILLS = """
import json, pathlib, sys
from campaigns import kills
rows = kills.rows(pathlib.Path(sys.argv[1]), 24, seed=1, planted=["bytes are deleted before the name"])
print(json.dumps([(row.name, row.figure) for row in rows if row.met is False]))
"""


@pytest.mark.slow
def test_killed_at_random_moments_nothing_partial_is_visible_and_every_download_ends_on_resume(tmp_path):
    """In a separate process, because its children are forks; they report why they end."""
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env = kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LOCARA_CAMPAIGN_DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], env=env, capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [], done.stderr


@pytest.mark.parametrize("turns", [20, pytest.param(800, marks=pytest.mark.slow)])
def test_a_model_in_use_is_never_collected_by_any_process(tmp_path, turns):
    assert missed(readers.rows(tmp_path, turns, seed=1)) == []


def test_wrong_bytes_are_refused_before_anything_parses_them(tmp_path):
    assert missed(corruptions.rows(tmp_path, 40, seed=1)) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has ext4 and its shutdown")
def test_power_cuts_lose_nothing_and_break_nothing_and_a_missing_sync_is_found(tmp_path):
    """Uses a loop-mounted ext4."""
    missing = powercut.why_not(tmp_path)
    if missing:
        pytest.skip(f"power cannot be cut here: {missing}")
    assert missed(powercut.rows(tmp_path, 4, seed=1)) == []


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("engine", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in installed()])
def test_with_everything_installed_nothing_connects(tmp_path, engine):
    missing = connections.why_not()
    if missing:
        pytest.skip(f"connections cannot be traced here: {missing}")
    assert missed(connections.rows(tmp_path / "traced", [engine])) == []
