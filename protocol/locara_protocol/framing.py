"""Bytes in, lines out: the newline framing of the wire, without any I/O.

Owned here: where a message begins and ends, and the bound on how much of one is ever held.
What a line means is the matter of :mod:`locara_protocol.jsonrpc`.
"""

from __future__ import annotations

from locara_protocol.records import Record

DEFAULT_MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest message accepted by default, in bytes, its line ending not counted."""

_LF = 0x0A
_CR = 0x0D


class LineTooLong(Record, frozen=True):
    """Stands in the output where a line would have stood that was longer than ``max_line_bytes``."""

    max_line_bytes: int


class LineSplitter:
    """Cuts a byte stream into messages; linear in the bytes fed, in pieces of any size.

    A message ends with LF; one CR before it belongs to the ending. Lines of whitespace only are
    skipped. Of a line that is too long at most ``max_line_bytes`` + 1 bytes are ever held: it is
    reported once, as soon as that is certain, and the rest is dropped up to its LF.

    :param max_line_bytes: the longest message in bytes, at least 1.
    :raises ValueError: for a bound below 1.
    """

    def __init__(self, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        if max_line_bytes < 1:
            raise ValueError("max_line_bytes must be at least 1")
        self._max = max_line_bytes
        self._partial = bytearray()
        self._discarding = False

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished line are held; never more than the bound + 1."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[bytes | LineTooLong]:
        """Takes the next bytes of the stream and returns what they completed, in order."""
        out: list[bytes | LineTooLong] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._end_line(data, start, end, out)
            start = end + 1
        if start < len(data) and not self._discarding:
            self._keep(data, start, out)
        return out

    def finish(self) -> list[bytes | LineTooLong]:
        """Ends the stream: returns a last line that no LF ended, if there is one."""
        out: list[bytes | LineTooLong] = []
        self._end_line(b"", 0, 0, out)
        return out

    def _end_line(self, data: bytes, start: int, end: int, out: list[bytes | LineTooLong]) -> None:
        """Completes the line whose last part is ``data[start:end]``."""
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
        """Holds ``data[start:]``, the part of a line whose LF has not come yet, or gives the line up."""
        length = len(self._partial) + len(data) - start
        if length > self._max + 1 or (length == self._max + 1 and data[-1] != _CR):
            self._partial = bytearray()
            self._discarding = True
            out.append(LineTooLong(self._max))
        else:
            self._partial += memoryview(data)[start:]
