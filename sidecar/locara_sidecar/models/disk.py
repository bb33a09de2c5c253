"""Files and locks as the store needs them: nothing half written, nothing that a power cut takes back.

A lock here only keeps two processes from doing the same work, or ``gc`` from a model in use; no file is
ever wrong because a lock was not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import sys
from typing import TYPE_CHECKING

from locara_sidecar.capability.system import System

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SYSTEM = System()
_NO_LINKS = frozenset({errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
READ_ONLY = 0o444


def sync_file(fd: int) -> None:
    """The contents of an open file, to the disk itself."""
    _SYSTEM.sync(fd)


def sync_path(path: Path) -> None:
    """The contents of a file that somebody else wrote, to the disk itself."""
    fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        _SYSTEM.sync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """The names in a folder, to the disk itself (Windows has no such call, nor the need)."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _SYSTEM.sync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """The names in a folder and all below it."""
    for path, _, _ in os.walk(folder):
        sync_folder(folder / path)


def write_new(path: Path, data: bytes) -> None:
    """A small file, whole or not at all, in place of what has its name.

    :raises OSError: as the calls fail; then nothing has changed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            sync_file(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a synced copy where the file system has no hard links.

    :raises FileExistsError: when the name is taken.
    :raises FileNotFoundError: when the source is not there (any more).
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """A synced copy under a new name, sharing the bytes where the file system can (a clone).

    :raises FileExistsError: when the name is taken.
    """
    if _clone_by_name(source, target):
        sync_path(target)
        return
    try:
        with source.open("rb") as old, target.open("xb") as new:
            if not _clone(old.fileno(), new.fileno()):
                shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            sync_file(new.fileno())
    except FileExistsError:
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise


_FICLONE = 0x40049409


def _clone_by_name(source: Path, target: Path) -> bool:
    """As APFS clones: the name must be free."""
    if sys.platform != "darwin":
        return False
    clonefile = ctypes.CDLL(None, use_errno=True).clonefile
    return clonefile(os.fsencode(source), os.fsencode(target), 0) == 0


def _clone(source: int, target: int) -> bool:
    """As btrfs, XFS and their like clone."""
    if fcntl is None or sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def available(folder: Path) -> int:
    """Bytes that the user may still write where ``folder`` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


class Lock:
    """A lock that is held until it is released or the process ends, however it ends."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def release(self) -> None:
        """Give it back; twice is no error."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def try_lock(path: Path, *, shared: bool, create: bool = True) -> Lock | None:
    """Take a lock without waiting; None when another holder is in the way.

    Where there are no locks, or the folder cannot be written, an empty one is returned: nothing depends on it.
    """
    if fcntl is None:
        return Lock(None)
    try:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        fd = os.open(path, flags, 0o666)
    except OSError:
        return Lock(None)
    taken = lock_fd(fd, shared=shared)
    if taken is not False:
        return Lock(fd)
    os.close(fd)
    return None


def lock_fd(fd: int, *, shared: bool = False) -> bool | None:
    """Lock an open file: True if it is ours, False if somebody else's, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def held(lock: Lock) -> Generator[None]:
    """Release a lock at the end of a block."""
    try:
        yield
    finally:
        lock.release()
