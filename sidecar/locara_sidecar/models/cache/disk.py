"""File and lock primitives for the store: no partial writes, nothing that a power cut undoes.

A lock here only keeps two processes from doing the same work, or ``gc`` from a model in use. No file is ever wrong
because a lock was missing, or because the file system grants it to everybody (``owner.py``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from locara_sidecar.capability.files.system import NOT_SUPPORTED, System
from locara_sidecar.machine import disk_space

if TYPE_CHECKING:
    from collections.abc import Generator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SYSTEM = System()
_FAILED = frozenset({errno.EEXIST, errno.EIO, errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Why a link is not made for reasons that a copy would meet, too."""
_NO_MODES = frozenset({*NOT_SUPPORTED, errno.EPERM, errno.EACCES})
FOLDER_MODE = 0o755
FILE_MODE = 0o644
"""The mode of what is created in the shared cache, whatever the umask: nobody else may write to it."""
CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
"""For opening what may be a pipe, which would block."""
READ_ONLY = 0o444


def sync_file(fd: int) -> None:
    """Flush the contents of an open file to disk."""
    _SYSTEM.sync(fd)


def sync_path(path: Path) -> None:
    """Flush the contents of a file that another process wrote to disk."""
    fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        _SYSTEM.sync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk (Windows has no such call, and no need for one)."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _SYSTEM.sync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Flush the names in a folder and everything below it to disk."""
    for path, _, _ in os.walk(folder):
        sync_folder(folder / path)


def write_new(path: Path, data: bytes) -> None:
    """Write a small file, whole or not at all, replacing any file with that name.

    :raises OSError: if a call fails; nothing has changed then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb", opener=_opener) as file:
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
    """Give a file a second name, or make a synced copy if the file system makes no hard link, whatever it says then.

    :raises FileExistsError: if the name is taken.
    :raises FileNotFoundError: if the source does not exist (any more).
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _FAILED:
            raise
        copy(source, target)


def set_mode(path: Path, mode: int) -> None:
    """Set a file's permissions where the file system has any: that only protects it from mistakes."""
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise


def copy(source: Path, target: Path) -> None:
    """Make a synced copy under a new name, sharing the bytes if the file system can (a clone).

    :raises FileExistsError: if the name is taken.
    """
    if _clone_by_name(source, target):
        sync_path(target)
        return
    try:
        with source.open("rb") as old, open(target, "xb", opener=_opener) as new:
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


def copy_opened(source: int, target: Path, size: int) -> None:
    """Make a synced copy of the open file ``source`` under a new name, private and at most ``size`` bytes long.

    :raises FileExistsError: if the name is taken.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        if not _clone(source, fd):
            while size > 0 and (chunk := os.read(source, min(size, 1 << 20))):
                size -= len(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
        sync_file(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            target.unlink()
        raise
    finally:
        os.close(fd)


_FICLONE = 0x40049409


def _clone_by_name(source: Path, target: Path) -> bool:
    """Clone the APFS way: the target must not exist."""
    if sys.platform != "darwin":
        return False
    from locara_sidecar.machine.macos.darwin import Darwin

    try:
        Darwin().clone(os.fspath(source), os.fspath(target))
    except OSError:
        return False
    return True


def _clone(source: int, target: int) -> bool:
    """Clone the way of btrfs, XFS and others."""
    if fcntl is None or sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def is_below(error: OSError, folder: Path) -> bool:
    """Whether a failed call concerned something in a folder, or the folder itself."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return any(Path(os.path.abspath(name)).is_relative_to(os.path.abspath(folder)) for name in names)


def available(folder: Path) -> int:
    """Return the bytes that the user may still write where ``folder`` is, or will be; very many if that is unknown."""
    while not folder.exists():
        folder = folder.parent
    return disk_space.free(folder)


class Lock:
    """A lock held until it is released or the process ends, for whatever reason.

    :param fd: the open file; None for an empty lock.
    :param mark: a file that says the same where locks do not work; deleted when the lock is released.
    """

    def __init__(self, fd: int | None, mark: Path | None = None) -> None:
        self._fd = fd
        self.mark = mark

    @property
    def empty(self) -> bool:
        """Whether there was nothing to lock."""
        return self._fd is None

    def refresh(self) -> None:
        """Renew the mark, for processes that can judge only by its age."""
        if self.mark is not None:
            with contextlib.suppress(OSError):
                os.utime(self.mark)

    def release(self) -> None:
        """Release the lock; releasing it twice is no error."""
        fd, self._fd = self._fd, None
        mark, self.mark = self.mark, None
        if mark is not None:
            with contextlib.suppress(OSError):
                mark.unlink()
        if fd is not None:
            os.close(fd)


def try_lock(path: Path, *, shared: bool, create: bool = True) -> Lock | None:
    """Take a lock without waiting; None if another holder prevents it.

    Read-only files (in a cache that others write) and folders are locked too: that needs no write permission. If there
    are no locks, or there is nothing to lock, an empty one is returned: nothing depends on it.
    """
    fd = _open(path, create=create)
    if fd is None:
        return Lock(None)
    taken = lock_fd(fd, shared=shared)
    if taken is not False:
        return Lock(fd)
    os.close(fd)
    return None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def make_folder(folder: Path) -> None:
    """Create a folder of the cache, and its missing parents.

    :raises OSError: if it cannot be created.
    """
    for one in (*reversed(folder.parents), folder):
        if not one.is_dir():
            one.mkdir(mode=FOLDER_MODE, exist_ok=True)


def probe(path: Path) -> Literal["held", "free", "unknown"]:
    """Whether anybody holds a lock on a file or folder. ``unknown`` if locks exclude nobody, or are not available."""
    fd = _open(path, create=False)
    if fd is None:
        return "unknown" if os.path.lexists(path) else "free"
    try:
        taken = lock_fd(fd)
        if taken is not True:
            return "unknown" if taken is None else "held"
        # a lock that always succeeds says nothing: it must exclude a second one
        second = _open(path, create=False)
        if second is None:
            return "unknown"
        try:
            return "free" if lock_fd(second) is False else "unknown"
        finally:
            os.close(second)
    finally:
        os.close(fd)


def _open(path: Path, *, create: bool) -> int | None:
    """Open a file for locking: for reading and writing if that is allowed, else for reading."""
    if fcntl is None:
        return None
    for flags in (os.O_RDWR | (os.O_CREAT if create else 0), os.O_RDONLY):
        with contextlib.suppress(OSError):
            return os.open(path, flags | CLOEXEC | _NONBLOCK, FILE_MODE)
    return None


def lock_fd(fd: int, *, shared: bool = False) -> bool | None:
    """Lock an open file: True if we have it, False if somebody else does, None if there are no locks.

    True does not prove that nobody else has it: some file systems always say so (:func:`probe` finds out).
    """
    if sys.platform == "win32" or fcntl is None:
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
