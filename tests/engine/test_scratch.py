"""Scratch folders go with their owner, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from locara_sidecar.engine.scratch import Scratch, sweep

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_discarded_folder_is_gone():
    scratch = Scratch()
    assert os.stat(scratch.path).st_mode & 0o777 == 0o700
    scratch.discard()
    scratch.discard()
    assert not os.path.exists(scratch.path)


def test_a_folder_in_use_is_left_alone_and_one_of_a_killed_daemon_is_removed(folder):
    code = f"""
import os, signal, tempfile
tempfile.tempdir = {str(folder)!r}
from locara_sidecar.engine.scratch import Scratch
scratch = Scratch()
open(os.path.join(scratch.path, "large"), "w").close()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    [left] = folder.iterdir()
    scratch = Scratch()
    sweep()
    assert not left.exists()
    assert os.path.isdir(scratch.path)
    scratch.discard()


def test_other_things_with_such_a_name_are_left_alone(folder):
    target = folder / "target"
    target.mkdir()
    (target / "file").touch()
    (folder / "locara-engine-link").symlink_to(target)
    (folder / "locara-engine-file").touch()
    sweep()
    assert (target / "file").exists()
    assert (folder / "locara-engine-file").exists()
