"""Bytes in, lines out: the newline framing of the wire, without any I/O.

This module decides where a message begins and ends, and bounds how much of one is held in memory. The meaning of a
line is up to :mod:`locara_protocol.jsonrpc`.
"""

from __future__ import annotations

from locara_protocol.records import Record

DEFAULT_MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest message accepted by default, in bytes, excluding its line ending."""

_CR = 0x0D


class LineTooLong(Record, frozen=True):
    """Takes the place of a line that was longer than ``max_line_bytes``."""

    max_line_bytes: int


class LineSplitter:
    """Splits a byte stream into messages; accepts chunks of any size and runs in linear time.

    A message ends with LF; one CR before it is part of the ending. Lines of only whitespace are skipped. At most
    ``max_line_bytes`` + 1 bytes of a line are held: a longer one is reported once, as soon as it is known to be too
    long, and the rest up to its LF is dropped.

    :param max_line_bytes: the longest message in bytes, at least 1.
    :raises ValueError: for a limit below 1.
    """

    def __init__(self, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        if max_line_bytes < 1:
            raise ValueError("max_line_bytes must be at least 1")
        self._max = max_line_bytes
        self._partial = bytearray()
        self._discarding = False

    @property
    def held_bytes(self) -> int:
        """Bytes held of an unfinished line; never more than the limit + 1."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[bytes | LineTooLong]:
        """Take the next bytes of the stream and return the lines they complete, in order."""
        out: list[bytes | LineTooLong] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._end_line(data, start, end, out)
            start = end + 1
        if start < len(data) and not self._discarding:
            self._keep(data, start, out)
        return out

    def finish(self) -> list[bytes | LineTooLong]:
        """End the stream: return a last line without LF, if there is one."""
        out: list[bytes | LineTooLong] = []
        self._end_line(b"", 0, 0, out)
        return out

    def _end_line(self, data: bytes, start: int, end: int, out: list[bytes | LineTooLong]) -> None:
        """Complete the line whose last part is ``data[start:end]``."""
        if self._discarding:
            self._discarding = False
            return
        length = len(self._partial) + end - start
        last = data[end - 1] if end > start else (self._partial[-1] if self._partial else 0)
        length -= last == _CR
        if length > self._max:
            self._partial.clear()
            out.append(LineTooLong(self._max))
            return
        if self._partial:
            self._partial += memoryview(data)[start:end]
            line = bytes(memoryview(self._partial)[:length])
            self._partial = bytearray()
        else:
            line = data[start : start + length]
        if line and not line.isspace():
            out.append(line)

    def _keep(self, data: bytes, start: int, out: list[bytes | LineTooLong]) -> None:
        """Hold ``data[start:]``, the part of a line whose LF has not arrived, or give up on the line."""
        length = len(self._partial) + len(data) - start
        if length > self._max + 1 or (length == self._max + 1 and data[-1] != _CR):
            self._partial = bytearray()
            self._discarding = True
            out.append(LineTooLong(self._max))
        else:
            self._partial += memoryview(data)[start:]
