"""WebP: select the chunks that determine the pixels; only those reach the decoder."""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from locara_sidecar.engine.decoding.refusal import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALPHA, _ANIMATION = 0x10, 0x02
"""Flags of the VP8X chunk."""
MAX_CHUNKS = 8192
"""A still picture has 7; each chunk costs more memory than it has bytes."""


class Webp(NamedTuple):
    """The contents of a WebP. ``data``: the file without anything that does not determine its pixels.

    ``size``: that of its canvas, for which a decoder allocates memory before it reads anything else.
    """

    data: bytes
    size: tuple[int, int]
    still: bool
    exif: bytes | None
    profile: bytes | None


def parse(data: bytes) -> Webp:
    """Read the chunks of a WebP (RFC 9649, 2).

    :raises ImageError: if it contains no picture.
    """
    chunks = list(islice(_chunks(data), MAX_CHUNKS + 1))
    if len(chunks) > MAX_CHUNKS:
        raise ImageError(f"it has more than {MAX_CHUNKS} chunks")
    first = dict(reversed(chunks))  # the first chunk of each name
    header = first.get(b"VP8X", b"")
    frames = [(name, body) for name, body in chunks if name == b"ANMF"]
    pixels = [(name, body) for name, body in chunks if name in (b"VP8 ", b"VP8L")]
    if len(header) >= 10 and header[0] & _ANIMATION and frames:
        kept = [(b"VP8X", _flags(header, _ANIMATION | _ALPHA)), (b"ANIM", first.get(b"ANIM", bytes(6))), *frames]
    elif not pixels:
        raise ImageError("it is a broken or incomplete WebP")
    elif pixels[0][0] == b"VP8 " and len(header) >= 10 and b"ALPH" in first:
        kept = [(b"VP8X", _flags(header, _ALPHA)), (b"ALPH", first[b"ALPH"]), pixels[0]]
    else:
        kept = pixels[:1]
    content = b"WEBP" + b"".join(_chunk(name, body) for name, body in kept)
    return Webp(_chunk(b"RIFF", content), _size(*kept[0]), len(frames) <= 1, first.get(b"EXIF"), first.get(b"ICCP"))


def _size(name: bytes, body: bytes) -> tuple[int, int]:
    """Return width and height from the first chunk of a file (RFC 9649, 2.5 to 2.7)."""
    if len(body) < 10:
        raise ImageError("it is a broken or incomplete WebP")
    if name == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and body of each chunk, including a truncated last one."""
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


def _flags(header: bytes, allowed: int) -> bytes:
    return bytes((header[0] & allowed,)) + header[1:10]
