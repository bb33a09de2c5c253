"""What the host sends, on its way from stdin to the dispatcher: bytes, then lines, in order.

Once there is an event loop, lines are handled in turns of half a millisecond (:func:`.turn`): however many a host sends
at once, other callbacks wait for one turn at most, and for one line if that takes longer.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from typing import TYPE_CHECKING

from locara_protocol.framing import LineSplitter, LineTooLong
from locara_sidecar.daemon.wire.off_loop import turn
from locara_sidecar.daemon.wire.stdio import ByteReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.daemon.wire.outbox import Outbox
    from locara_sidecar.daemon.wire.server import Server

_LEFT_SECONDS = 0.6
_MANY = 256
_PIECE = 1024
"""Bytes that are split into lines at a time where there are many in a chunk: a chunk of empty lines takes 60 ms."""


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
        self._unsplit: deque[bytes | _Mark] = deque()
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
        :param again: calls this once more: when there is an event loop, for the next turn.
        :raises Exception: whatever it is, stdin cannot be read any further.
        """
        is_over = turn()
        while self._handle_next(server, stopping):
            if is_over() and self._later(again):
                return

    def _handle_next(self, server: Server, stopping: Callable[[], bool]) -> bool:
        """Handle the next thing that has arrived: a line, or bytes to be split into lines. False if there is none, or
        this must stop, for now or for good.
        """
        if not self._lines:
            return self._split_next()
        if stopping() or server.busy or self._outbox.is_full(self._arrived):
            return False
        line = self._lines.popleft()
        if line is _Mark.CHUNK_END:
            self._reader.done()
        elif line is _Mark.STDIN_END:
            self._reader.ended()
            self._ended()
        elif isinstance(line, LineTooLong):
            server.handle_long_line()
        else:
            server.handle_line(line)
        return True

    def _split_next(self) -> bool:
        """Split the next bytes into lines; False if there are none."""
        if not self._unsplit:
            if not self._inbox:
                return False
            self._unsplit += _pieces(self._inbox.popleft())
        piece = self._unsplit.popleft()
        if piece is _Mark.STDIN_END:
            self._lines += self._splitter.finish()
        if isinstance(piece, _Mark):
            self._lines.append(piece)
        else:
            self._lines += self._splitter.feed(piece)
        return True


def _pieces(chunk: bytes) -> list[bytes | _Mark]:
    """Return the parts of a chunk from stdin, and what follows it; empty at the end of stdin."""
    if not chunk:
        return [_Mark.STDIN_END]
    if chunk.count(b"\n") <= _MANY:
        return [chunk, _Mark.CHUNK_END]
    return [*(chunk[at : at + _PIECE] for at in range(0, len(chunk), _PIECE)), _Mark.CHUNK_END]
