"""The record of decisions as a file in ``app-data``: append-only, bounded, and no call ever waits for it.

One JSON object per line, in ``capability-log.jsonl``; at :data:`MAX_BYTES` it is renamed to ``capability-log.1.jsonl``,
replacing the previous one. The folder is held by a descriptor, and the file is opened relative to it, without following
links and only if it is a regular file with a single name, so that nobody can make the daemon write elsewhere.

It never fails a job: a separate thread writes from a bounded queue, and what cannot be written is counted and dropped.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.capability.authorize import FolderGrant
from locara_sidecar.capability.files.system import AVAILABLE, System

if TYPE_CHECKING:
    from locara_protocol.messages import AuditEntry

log = logging.getLogger("locara.audit")

NAME = "capability-log.jsonl"
OLDER = "capability-log.1.jsonl"
MAX_BYTES = 1 << 20
"""A file that would grow beyond this is rotated; there are never more than two such files."""

_MAX_WAITING = 1000


class AppendedFile:
    """A granted folder's log file; each :meth:`append` looks it up again, so it may be moved or deleted.

    :raises OSError: if the folder cannot be opened.
    """

    def __init__(self, grant: FolderGrant, *, system: System | None = None, max_bytes: int = MAX_BYTES) -> None:
        if type(grant) is not FolderGrant or grant.access != "write":
            raise TypeError("appending to a file needs a grant to write")
        if not AVAILABLE:
            raise OSError(errno.ENOSYS, "files cannot be opened safely on this system")
        self._system = system or System()
        self._max_bytes = max_bytes
        self._folder = self._system.open_root(str(grant.folder))

    def close(self) -> None:
        """Close the folder."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            self._system.close(folder)

    def append(self, line: bytes) -> None:
        """Append a line in one write, rotating first if it would not fit.

        :raises OSError: if it cannot be written; the file then has at most the line's beginning.
        """
        fd = self._open()
        try:
            if self._system.file_status(fd).st_size + len(line) > self._max_bytes and self._rotate(fd, len(line)):
                fd, old = self._open(), fd
                self._system.close(old)
            self._write(fd, line)
        finally:
            self._system.close(fd)

    def _open(self) -> int:
        fd = self._system.open_append(NAME, self._folder)
        try:
            status = self._system.file_status(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # a second name could be a user's file
                raise OSError(errno.EINVAL, "not a regular file with a single name")
        except OSError:
            self._system.close(fd)
            raise
        return fd

    def _rotate(self, fd: int, needed: int) -> bool:
        """Rename the full file; return whether to open a new one.

        Another daemon of the same app may rotate at this moment: the lock decides, and the loser looks again.
        """
        try:
            self._system.try_lock(fd)
        except OSError:
            if self._system.file_status(fd).st_size + needed > 2 * self._max_bytes:
                raise OSError(errno.EFBIG, "full, and held by another process") from None
            return False
        mine = self._system.file_status(fd)
        with contextlib.suppress(FileNotFoundError):
            there = self._system.status(NAME, self._folder)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                self._system.rename_over(NAME, OLDER, self._folder)
        return True

    def _write(self, fd: int, line: bytes) -> None:
        if self._system.write(fd, memoryview(line)) != len(line):
            raise OSError(errno.ENOSPC, "only part of it was written")


class AuditWriter:
    """Accepts entries without waiting and appends them in a separate thread.

    :param session: included in each line, to tell the lines of several daemons apart.
    """

    def __init__(self, grant: FolderGrant, session: str, *, max_bytes: int = MAX_BYTES) -> None:
        self._grant = grant
        self._session = session
        self._max_bytes = max_bytes
        self._waiting: collections.deque[bytes] = collections.deque()
        self._changed = threading.Condition()
        self._idle = threading.Event()
        self._idle.set()
        self._failed = False
        self.dropped = 0
        """Lines that were not written: the queue was full, or the file could not be written."""
        threading.Thread(target=self._run, name="audit", daemon=True).start()

    def put(self, entry: AuditEntry) -> None:
        """Queue an entry; never blocks, and never raises because of the disk."""
        line = msgspec.json.encode({**msgspec.to_builtins(entry), "session": self._session}) + b"\n"
        with self._changed:
            if len(self._waiting) >= _MAX_WAITING:
                self.dropped += 1
                return
            self._waiting.append(line)
            self._idle.clear()
            self._changed.notify()

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued is written or dropped, for at most ``seconds``; return whether it is."""
        return self._idle.wait(seconds)

    def _run(self) -> None:
        file: AppendedFile | None = None
        while True:
            with self._changed:
                while not self._waiting:
                    self._idle.set()
                    self._changed.wait()
                line = self._waiting.popleft()
            try:
                if file is None:
                    file = AppendedFile(self._grant, max_bytes=self._max_bytes)
                file.append(line)
                self._failed = False
            except OSError as error:
                file = self._give_up(file, error)

    def _give_up(self, file: AppendedFile | None, error: OSError) -> None:
        """Drop the line and, if the folder itself is gone, look for it again next time; logged once."""
        self.dropped += 1
        if not self._failed:
            self._failed = True
            symbol = errno.errorcode.get(error.errno or 0, "")
            log.warning("the capability log cannot be written", extra={"fields": {"errno": symbol}})
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def session_name() -> str:
    """Return a short name for this run of the daemon."""
    return os.urandom(4).hex()
