"""Scratch folders are removed with their owner, however it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile

import pytest

from locara_sidecar.machine.processes.scratch import Scratch, sweep

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
from locara_sidecar.machine.processes.scratch import Scratch
scratch = Scratch()
open(os.path.join(scratch.path, "large"), "w").close()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    [left] = folder.iterdir()
    scratch = Scratch()
    sweep(scratch.path)
    assert not left.exists()
    assert os.path.isdir(scratch.path)
    scratch.discard()


def test_other_things_with_such_a_name_are_left_alone(folder):
    target = folder / "target"
    target.mkdir()
    (target / "file").touch()
    (folder / "locara-engine-link").symlink_to(target)
    (folder / "locara-engine-file").touch()
    scratch = Scratch()
    sweep(scratch.path)
    scratch.discard()
    assert (target / "file").exists()
    assert (folder / "locara-engine-file").exists()


def no_locks(monkeypatch, number):
    def flock(fd, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_done_without(number, monkeypatch, folder):
    no_locks(monkeypatch, number)
    scratch, other = Scratch(), Scratch()
    assert os.path.isdir(scratch.path)
    sweep(other.path)  # without locks nobody knows what is in use
    assert os.path.isdir(scratch.path)
    scratch.discard()
    other.discard()
    assert list(folder.iterdir()) == []


def test_a_folder_that_belongs_to_somebody_else_as_soon_as_it_is_made_is_used(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # CIFS, NFS with all_squash, a Windows drive under WSL
    scratch = Scratch()
    assert os.path.isdir(scratch.path)
    scratch.discard()


def test_locks_that_everybody_gets_at_once_protect_nothing_and_nothing_is_swept(monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda fd, how: None)
    ours, others = Scratch(), Scratch()
    sweep(ours.path)
    assert os.path.isdir(others.path)
    ours.discard()
    others.discard()


def test_a_folder_that_is_swept_away_each_time_is_given_up(monkeypatch):
    made = []

    def mkdtemp(prefix, **where):
        made.append(prefix)
        return str(folder_that_is_not_there)

    folder_that_is_not_there = "/nonexistent/locara"
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(OSError, match="scratch"):
        Scratch()
    assert 1 < len(made) < 20


def test_a_lock_that_a_sweeper_holds_for_ever_is_given_up_too(monkeypatch):
    no_locks(monkeypatch, errno.EWOULDBLOCK)
    with pytest.raises(OSError, match="scratch"):
        Scratch()
