"""The engine's scratch folder: one per process, removed with it, or by a later daemon if this one was killed.

The daemon holds a lock on the folder while it lives, so whoever gets the lock knows that nobody needs it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

from locara_sidecar.machine.processes.trees import remove_tree, shown

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX = "locara-engine-"
_TRIES = 5


class Scratch:
    """A new folder that only this user can enter.

    If the file system has no locks (some network ones), the folder has none, and nobody sweeps it.

    :raises OSError: if none can be created.
    """

    def __init__(self) -> None:
        self._lock: int | None = None
        self._discarding = threading.Lock()
        for _ in range(_TRIES):
            self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=_folder())
            try:
                self._lock = _lock(self.path)
            except BlockingIOError:  # a sweeper has it, and will remove it
                continue
            except OSError:
                self._lock = None
            if os.path.isdir(self.path):
                return
            self.discard()  # a sweeper came in between
        raise OSError(errno.EBUSY, "its scratch folders are removed as soon as they are made")

    def discard(self) -> None:
        """Remove the folder; the second time, do nothing. From any thread."""
        with self._discarding:
            remove_tree(self.path)
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)


def _folder() -> str:
    """Return the system's folder for temporary files, or ``/tmp`` if its name is not UTF-8: a line to the engine must
    be UTF-8.
    """
    usual = tempfile.gettempdir()
    return usual if shown(usual) == usual else "/tmp"


def sweep(own: str) -> None:
    """Remove this user's folders that no living daemon holds. Blocks; never fails.

    :param own: a folder in use here, to test whether locks work.
    """
    if sys.platform == "win32" or _can_be_locked(own):
        return
    with contextlib.suppress(OSError), os.scandir(_folder()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX):
                _can_be_locked(entry.path, then=remove_tree)


def _can_be_locked(path: str, then: Callable[[str], object] = lambda _: None) -> bool:
    """Whether a folder is this user's and nobody holds its lock; if so, call ``then`` with it while we hold it."""
    try:
        lock = _lock(path, owned=True)
    except OSError:
        return False
    if lock is None:
        return False
    then(path)
    os.close(lock)
    return True


def _lock(path: str, *, owned: bool = False) -> int | None:
    """Return a descriptor that holds the lock on the folder; None on a system without such locks.

    :param owned: the folder must belong to this user. A newly created one does, whatever the system says: over a
        network all files may seem to belong to somebody else.
    :raises OSError: BlockingIOError if somebody else has the lock; any other if it cannot be taken.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if owned and os.fstat(fd).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "another user's")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd
