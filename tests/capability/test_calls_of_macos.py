"""The calls by which files are saved on macOS, on a simulated one: how a file reaches the disk, and a name is taken."""

import errno
import fcntl
import os
import sys

import pytest

from locara_sidecar.capability.files import system
from locara_sidecar.capability.files.system import System

F_FULLFSYNC, RENAME_EXCL = 51, 4


@pytest.fixture
def synced(monkeypatch, tmp_path):
    """An open file on a Mac whose file system answers to ``F_FULLFSYNC`` with this error, and the calls for it."""
    calls = []

    def play(number=None):
        def control(fd, request, *_):
            calls.append(request)
            if number is not None:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "fcntl", control)
        monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
        monkeypatch.setattr(sys, "platform", "darwin")
        return calls

    with (tmp_path / "a").open("wb") as file:
        yield lambda *number: (file.fileno(), play(*number))


def test_a_file_is_flushed_through_the_disk_s_own_cache(synced):
    fd, calls = synced()
    System().sync(fd)
    assert calls == [F_FULLFSYNC], "fsync alone leaves it in the disk's cache"


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_where_the_file_system_cannot_do_that_it_does_what_it_can(synced, number):
    fd, calls = synced(number)
    System().sync(fd)
    assert calls == [F_FULLFSYNC, "fsync"]


def test_a_disk_that_fails_is_not_asked_for_less(synced):
    fd, calls = synced(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        System().sync(fd)
    assert calls == [F_FULLFSYNC]


class Library:
    """``renameatx_np`` of a file system that answers this, after one interruption."""

    def __init__(self, number):
        self._left, self.calls = [errno.EINTR, number], []

    def renameatx_np(self, old_folder, old, new_folder, new, flags):
        self.calls.append((old_folder.value, old, new_folder.value, new, flags.value))
        number = self._left.pop(0)
        system.ctypes.set_errno(number)
        return -1 if number else 0


@pytest.mark.parametrize(
    ("number", "raised"),
    [(0, None), (errno.EEXIST, FileExistsError), (errno.ENOTSUP, OSError), (errno.EPERM, PermissionError)],
)
def test_a_name_is_taken_only_if_it_is_free(monkeypatch, number, raised):
    library = Library(number)
    monkeypatch.setattr(system, "_libc", lambda: library)
    monkeypatch.setattr(sys, "platform", "darwin")
    if raised is None:
        System().rename_new(".a", "b", 5)
    else:
        with pytest.raises(raised) as caught:
            System().rename_new(".a", "b", 5)
        assert caught.value.errno == number
    assert library.calls == [(5, b".a", 5, b"b", RENAME_EXCL)] * 2


def test_a_macos_without_it_says_so(monkeypatch):
    monkeypatch.setattr(system, "_libc", object)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="no exclusive rename") as caught:
        System().rename_new("a", "b", 5)
    assert caught.value.errno in system.NOT_SUPPORTED
