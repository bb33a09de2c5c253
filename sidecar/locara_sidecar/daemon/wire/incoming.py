"""What the host sends, on its way from stdin to the dispatcher: bytes, then lines, in order.

Once there is an event loop, each line gets a callback of its own: however many a host sends at once, what is ready
waits for one of them at most.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from typing import TYPE_CHECKING

from locara_protocol.framing import LineSplitter, LineTooLong
from locara_sidecar.daemon.wire.stdio import ByteReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.daemon.wire.outbox import Outbox
    from locara_sidecar.daemon.wire.server import Server

_LEFT_SECONDS = 0.6


class _Mark(enum.Enum):
    """A marker among the lines that have been split off."""

    CHUNK_END = 1
    STDIN_END = 2


class Incoming:
    """The lines that have arrived and have not been handled.

    :param outbox: while it is full, no further line is handled.
    :param arrived: called in the reading thread when something has arrived, and by the writing thread when the outbox
        has room again; :meth:`drain` should then be called on the main thread.
    :param later: runs a function in its own callback of the event loop; False if there is no loop yet.
    :param ended: called at the end of stdin, or if the host has left it without reading its answers.
    """

    def __init__(
        self,
        read_fd: int,
        max_line_bytes: int,
        outbox: Outbox,
        *,
        arrived: Callable[[], None],
        later: Callable[[Callable[[], None]], bool],
        ended: Callable[[], None],
    ) -> None:
        self._outbox = outbox
        self._arrived = arrived
        self._later = later
        self._ended = ended
        self._inbox: deque[bytes] = deque()
        self._lines: deque[bytes | LineTooLong | _Mark] = deque()
        self._splitter = LineSplitter(max_line_bytes)
        self._reader = ByteReader(read_fd, self._deliver, self._left)
        self._taken, self._taken_at = -1, 0.0

    def start(self) -> None:
        """Start reading, in a thread."""
        self._reader.start()

    def _deliver(self, chunk: bytes) -> None:
        """Take a chunk from stdin, in the reading thread; empty at the end of stdin."""
        self._inbox.append(chunk)
        self._arrived()

    def _left(self) -> None:
        """Handle, in the reading thread, a stdin that was closed but not read to its end because answers wait to be
        read.

        A host that still reads them gets the answers to all its requests. One that does not is gone.
        """
        now = time.monotonic()
        if self._outbox.taken != self._taken:
            self._taken, self._taken_at = self._outbox.taken, now
        elif now - self._taken_at > _LEFT_SECONDS:
            self._ended()

    def drain(self, server: Server, stopping: Callable[[], bool], again: Callable[[], None]) -> None:
        """Have the server handle the lines that have arrived, in order, as long as the host reads the answers. On the
        main thread.

        :param stopping: whether no further line matters.
        :param again: calls this once more: when there is an event loop, for the lines after the first.
        :raises Exception: whatever it is, stdin cannot be read any further.
        """
        while self._handle_next(server, stopping):
            if self._later(again):
                return

    def _handle_next(self, server: Server, stopping: Callable[[], bool]) -> bool:
        """Handle the next line that has arrived; False if there is none, or this must stop, for now or for good."""
        while self._lines or self._inbox:
            if not self._lines:
                self._split(self._inbox.popleft())
                continue
            if stopping() or server.busy or self._outbox.is_full(self._arrived):
                return False
            line = self._lines.popleft()
            if line is _Mark.CHUNK_END:
                self._reader.done()
            elif line is _Mark.STDIN_END:
                self._reader.ended()
                self._ended()
            else:
                if isinstance(line, LineTooLong):
                    server.handle_long_line()
                else:
                    server.handle_line(line)
                return True
        return False

    def _split(self, chunk: bytes) -> None:
        if chunk:
            self._lines += self._splitter.feed(chunk)
            self._lines.append(_Mark.CHUNK_END)
        else:
            self._lines += self._splitter.finish()
            self._lines.append(_Mark.STDIN_END)
