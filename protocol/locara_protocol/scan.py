"""What a line must be before a parser may see it: UTF-8 throughout, and not nested too deep.

msgspec checks neither where it skips (a member nobody asked for, a :class:`msgspec.Raw`), and deep nesting
costs native stack. Everything else that JSON forbids (numbers, escapes, lone surrogates, control
characters) it does check while skipping; ``tests/protocol/test_decode_fuzz.py`` holds it to that.

Both scans go through the line in pieces with C-speed primitives, so that 15 MB take tens of
milliseconds in the common case and never more than a fraction of a megabyte besides the line.
"""

from __future__ import annotations

import codecs
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msgspec import Raw

_PIECE = 64 * 1024
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_OPENERS_AND_CLOSERS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def is_utf8(line: bytes) -> bool:
    """Whether the whole line is valid UTF-8 (encoded surrogates and overlong forms are not)."""
    if line.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(line)
    try:
        for start in range(0, len(line), _PIECE):
            decoder.decode(view[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def first_byte(text: bytes | memoryview | Raw) -> bytes:
    """The first byte of a JSON text, which tells its type; empty for an absent member."""
    return bytes(memoryview(text)[:1])


def exceeds_depth(line: bytes, max_depth: int) -> bool:
    """Whether arrays and objects are nested deeper than ``max_depth``.

    Exact for every prefix that is valid JSON, which is all a parser will walk into: ``{}`` and
    ``[]`` have depth 1, a scalar 0, and brackets within strings do not count.
    """
    if line.count(b"[") + line.count(b"{") <= max_depth:
        return False
    depth = 0
    in_string = False
    start = 0
    while start < len(line):
        end = _end_of_piece(line, start)
        brackets, in_string = _brackets_outside_strings(line[start:end], in_string)
        start = end
        openers = brackets.count(b"[") + brackets.count(b"{")
        if depth + openers > max_depth:
            steps = memoryview(brackets.translate(_OPENERS_AND_CLOSERS)).cast("b")
            if max(accumulate(steps, initial=depth)) > max_depth:
                return True
        depth += 2 * openers - len(brackets)
    return False


def _end_of_piece(line: bytes, start: int) -> int:
    """The end of the piece from ``start``, moved so that it does not part an escape."""
    end = min(start + _PIECE, len(line))
    piece = line[start:end]
    backslashes = len(piece) - len(piece.rstrip(b"\\"))
    return min(end + backslashes % 2, len(line))


def _brackets_outside_strings(piece: bytes, in_string: bool) -> tuple[bytes, bool]:
    """The brackets of a piece that are outside strings, and whether the piece ends within one."""
    if b"\\" in piece:
        # Pairs first: what then stands before a quote is an escape of that quote.
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = piece.translate(None, _NOT_STRUCTURE)
    # Two quotes side by side change neither the side nor the order of any bracket.
    marks = marks.replace(b'""', b"")
    parts = marks.split(b'"')
    ends_within = in_string ^ (len(parts) % 2 == 0)
    return b"".join(parts[1::2] if in_string else parts[::2]), ends_within
