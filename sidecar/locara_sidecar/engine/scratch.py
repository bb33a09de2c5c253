"""The engine's scratch folder: one for each process, removed with it, or by a later daemon if this one was killed.

The daemon holds a lock on the folder while it lives, so whoever gets the lock knows that nobody needs it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile

_PREFIX = "locara-engine-"


class Scratch:
    """A new folder that only this user can enter.

    :raises OSError: when none can be made.
    """

    def __init__(self) -> None:
        self._lock: int | None = None
        while True:
            self.path = tempfile.mkdtemp(prefix=_PREFIX)
            if sys.platform == "win32":
                return
            self._lock = _lock(self.path)
            if self._lock is not None and os.path.isdir(self.path):
                return
            self.discard()  # a sweeper came between the two lines above

    def discard(self) -> None:
        """Remove the folder; a second time nothing happens."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def sweep() -> None:
    """Remove this user's folders that no living daemon holds. Blocking; never fails."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and (lock := _lock(entry.path)) is not None:
                shutil.rmtree(entry.path, ignore_errors=True)
                os.close(lock)


def _lock(path: str) -> int | None:
    """A descriptor that holds the lock on the folder; None if somebody else does or it is not ours."""
    if sys.platform == "win32":
        return None
    import fcntl

    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_uid == os.getuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
        except OSError:
            pass
        os.close(fd)
    return None
