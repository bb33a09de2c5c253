"""The parts of PNG that the checks write and read, so that the harness needs no further package."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from locara_conformance.lab import expect
from locara_conformance.outcomes import Failed

if TYPE_CHECKING:
    from collections.abc import Callable


def png(width: int, height: int, colour: Callable[[int], bytes] = lambda _row: b"\xc0\x20\x20") -> bytes:
    """Return a picture, red or with a colour for each row."""
    data = b"".join(b"\0" + colour(row) * width for row in range(height))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG, each with its type and its body.

    :raises Failed: if it is not a PNG.
    """
    place, found = 8, list[tuple[bytes, bytes]]()
    expect(data.startswith(b"\x89PNG\r\n\x1a\n"), "a picture is not a PNG")
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += size + 12
    expect(place == len(data), "a picture is cut off")
    return found


def size(data: bytes) -> tuple[int, int]:
    """Return width and height of a PNG.

    :raises Failed: if it is not a PNG.
    """
    width, height, *_ = _head(chunks(data))
    return width, height


def _head(parts: list[tuple[bytes, bytes]]) -> tuple[int, int, int, int]:
    """Return width, height, bits and colour type."""
    expect([len(body) for kind, body in parts if kind == b"IHDR"] == [13], "a picture has no header")
    return struct.unpack(">IIBB", dict(parts)[b"IHDR"][:10])


def rows(data: bytes) -> list[bytes]:
    """Return the rows of an 8-bit RGB PNG, three bytes per pixel.

    :raises Failed: if it is not one.
    """
    parts = chunks(data)
    width, height, depth, colour = _head(parts)
    expect((depth, colour) == (8, 2), f"the picture has {depth} bits and colour type {colour}, not 8 and 2")
    try:
        raw = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    except zlib.error as error:
        raise Failed(f"a picture's pixels cannot be read: {error}") from None
    stride, above, out = width * 3, bytearray(width * 3), list[bytes]()
    expect(len(raw) == height * (stride + 1), "a picture does not have as many pixels as its header says")
    expect(all(raw[start] <= 4 for start in range(0, len(raw), stride + 1)), "a picture has an unknown filter")
    for start in range(0, len(raw), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        for at_, value in enumerate(row):
            left, corner = (row[at_ - 3], above[at_ - 3]) if at_ >= 3 else (0, 0)
            row[at_] = (value + _predicted(raw[start], left, above[at_], corner)) & 255
        out.append(bytes(row))
        above = row
    return out


def apart(picture: bytes, small: bytes) -> float:
    """Return how far a small PNG is from a picture of a multiple of its size, in levels of 255 per value on average."""
    pixels, shown = rows(picture), rows(small)
    expect(bool(pixels) and bool(shown) and bool(shown[0]), "a picture has no pixels")
    height, width = len(shown), len(shown[0]) // 3
    down, across = len(pixels) // height, len(pixels[0]) // 3 // width
    expect(down >= 1 and across >= 1, "a preview is larger than its picture")
    total = 0.0
    for y in range(height):
        block = pixels[y * down : (y + 1) * down]
        for at_ in range(width * 3):
            first = at_ // 3 * across * 3 + at_ % 3
            values = [row[one] for row in block for one in range(first, first + across * 3, 3)]
            total += abs(sum(values) / len(values) - shown[y][at_])
    return total / (width * height * 3)


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    """Return what PNG's filter of that type adds."""
    if kind == 4:
        guess = left + up - corner
        return min((left, up, corner), key=lambda one: abs(guess - one))
    return (0, left, up, (left + up) // 2)[kind]
