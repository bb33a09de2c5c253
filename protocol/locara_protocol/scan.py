"""Checks before a line may be parsed: valid UTF-8 throughout, and not nested too deep.

msgspec checks neither in what it skips (an unknown member, a :class:`msgspec.Raw`), and deep nesting uses up native
stack. It does check everything else that JSON forbids (numbers, escapes, lone surrogates, control characters) while
skipping; ``tests/protocol/test_decode_fuzz.py`` verifies that.

Both scans work in chunks with C-speed primitives: 15 MB take tens of milliseconds in the common case, and never more
than a fraction of a megabyte on top of the line itself.
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
    """Return the first byte of a JSON text, which tells its type; empty for an absent member."""
    return bytes(memoryview(text)[:1])


def exceeds_depth(line: bytes, max_depth: int) -> bool:
    """Whether arrays and objects are nested deeper than ``max_depth``.

    Exact for every prefix that is valid JSON, which is all that a parser will descend into: ``{}`` and ``[]`` have
    depth 1, a scalar 0, and brackets within strings do not count.
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
    """Return the end of the chunk that begins at ``start``, moved so as not to split an escape."""
    end = min(start + _PIECE, len(line))
    piece = line[start:end]
    backslashes = len(piece) - len(piece.rstrip(b"\\"))
    return min(end + backslashes % 2, len(line))


def _brackets_outside_strings(piece: bytes, in_string: bool) -> tuple[bytes, bool]:
    """Return the brackets of a chunk that are outside strings, and whether it ends within one."""
    if b"\\" in piece:
        # Pairs first: a backslash that then remains before a quote escapes that quote.
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = piece.translate(None, _NOT_STRUCTURE)
    # Two adjacent quotes change neither whether a bracket is inside a string nor their order.
    marks = marks.replace(b'""', b"")
    parts = marks.split(b'"')
    ends_within = in_string ^ (len(parts) % 2 == 0)
    return b"".join(parts[1::2] if in_string else parts[::2]), ends_within
