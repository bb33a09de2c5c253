"""The daemon's descriptors: claims stdin and stdout, reads bytes in, writes lines out.

Owns fd 0 and fd 1. After :func:`claim`, only :class:`LineWriter` can reach the host's end of stdout: fd 1 points at
stderr, so output of a native library, a child or a stray ``print`` lands in the log.

Reading and writing are plain blocking calls in daemon threads. Only this works with every kind of descriptor (pipe,
socket, file, null device) on every system and still lets the process end while a read is pending; event-loop readiness
fails on files, and buffered ``sys.stdin`` can abort the interpreter at exit.

A descriptor that is shared with the host may become non-blocking at any time: the flag belongs to the shared open file
description, and Node sets it. We leave it as the host wants it; where a call would block, we wait with ``poll``.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 1 << 16
_WRITE_BYTES = 1 << 16
_CHUNKS_AHEAD = 4
_LOOK_SECONDS = 0.1
_READABLE: int = getattr(select, "POLLIN", 0)
_WRITABLE: int = getattr(select, "POLLOUT", 0)


def claim() -> tuple[int, int]:
    """Take stdin and stdout away from all other code; return private descriptors (read, write).

    Descriptors that the host closed are replaced by the null device, so that no file opened later can land on 0, 1 or
    2.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
    read_fd, write_fd = _private(0), _private(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0, inheritable=True)
    os.close(null)
    os.dup2(2, 1, inheritable=True)
    if sys.platform == "win32":  # otherwise the C runtime would turn LF into CRLF
        import msvcrt

        for fd in (read_fd, write_fd):
            msvcrt.setmode(fd, os.O_BINARY)
    return read_fd, write_fd


def _private(fd: int) -> int:
    """Return a close-on-exec duplicate above the three standard descriptors."""
    copies = [os.dup(fd)]
    while copies[-1] <= 2:
        copies.append(os.dup(fd))
    for copy in copies[:-1]:
        os.close(copy)
    return copies[-1]


def read(fd: int, size: int) -> bytes:
    """Return what there is to read, up to ``size`` bytes, as soon as there is something; empty at the end.

    :raises OSError: if it cannot be read.
    """
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            if not _ready(fd, _READABLE):
                raise


def write_all(fd: int, data: bytes, seconds: float | None = None) -> None:
    """Write all of ``data``, waiting until it has been taken.

    :param seconds: how long to wait in total; None for no limit.
    :raises OSError: if it cannot be written, or (BlockingIOError) not in time.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            if not _ready(fd, _WRITABLE, deadline):
                raise


def _ready(fd: int, event: int, deadline: float | None = None) -> bool:
    """Wait until the descriptor can be read or written, or is broken; False if the deadline has passed."""
    if sys.platform == "win32":  # pipes are never non-blocking there
        return False
    poll = select.poll()
    poll.register(fd, event)
    left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    return bool(poll.poll(left))


def _hung_up(fd: int) -> bool:
    """Whether the other side has closed its end; there may still be something left to read.

    Linux has an event for that. macOS does not watch a descriptor at all unless some event is asked for (xnu,
    ``sys_generic.c``); the one of a hang-up, which other systems report unasked, is enough.
    """
    if sys.platform == "win32":
        return False
    left: int = getattr(select, "POLLRDHUP", select.POLLHUP)
    poll = select.poll()
    poll.register(fd, left)
    # not POLLNVAL, which macOS answers for devices that cannot be watched
    return any(event & (left | select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


class ByteReader:
    """Reads a descriptor in a thread and delivers the chunks, staying at most a few ahead of the consumer.

    :param deliver: called *in the reading thread* with each chunk, ``b""`` at the end of the stream. The consumer calls
        :meth:`done` for every chunk that it has processed; at most four are outstanding, which bounds the daemon's
        memory when a host writes faster than it reads.
    :param on_left: called in the reading thread, several times a second, while the other side has closed its end but
        the consumer does not get there because it has not processed earlier chunks.
    """

    def __init__(self, fd: int, deliver: Callable[[bytes], None], on_left: Callable[[], None] | None = None) -> None:
        self._fd = fd
        self._deliver = deliver
        self._on_left = on_left
        self._slots = threading.Semaphore(_CHUNKS_AHEAD)
        self._end_seen = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stdin", daemon=True)

    def start(self) -> None:
        """Start reading in a separate thread."""
        self._thread.start()

    def done(self) -> None:
        """Mark one delivered chunk as processed."""
        self._slots.release()

    def ended(self) -> None:
        """Mark the end of the stream as processed."""
        self._end_seen.set()

    def _run(self) -> None:
        try:
            while True:
                while not self._slots.acquire(timeout=_LOOK_SECONDS):
                    if self._on_left is not None and _hung_up(self._fd):
                        self._on_left()
                chunk = read(self._fd, _READ_BYTES)
                if not chunk:
                    return
                self._deliver(chunk)
        except (OSError, MemoryError):
            return
        finally:
            self._deliver(b"")
            while self._on_left is not None and not self._end_seen.wait(_LOOK_SECONDS):
                self._on_left()


class LineSource(Protocol):
    """Supplies the writer's lines (the outbox)."""

    def take(self, max_bytes: int) -> bytes | None:
        """Block until there is something to write; None when everything is written and the source is closed."""
        ...


class LineWriter:
    """Writes what a :class:`LineSource` supplies, in a thread, until the source is closed or the host is gone."""

    def __init__(self, fd: int, source: LineSource, on_broken: Callable[[], None]) -> None:
        self._fd = fd
        self._source = source
        self._on_broken = on_broken
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stdout", daemon=True)

    def start(self) -> None:
        """Start writing in a separate thread."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is written; False if that takes longer (the host does not read)."""
        return self._finished.wait(seconds)

    def _run(self) -> None:
        try:
            while (data := self._source.take(_WRITE_BYTES)) is not None:
                write_all(self._fd, data)
        except (OSError, MemoryError):
            self._on_broken()
        finally:
            self._finished.set()
