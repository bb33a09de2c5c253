"""Picture files written by hand, for variants that Pillow cannot write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of each pass."""


def encoded(image: PilImage, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


# --- PNG ---------------------------------------------------------------------------------------


def chunk(name: bytes, data: bytes, *, sound: bool = True) -> bytes:
    checksum = zlib.crc32(name + data) ^ (not sound)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IEND", b"")])


def png_header(width: int, height: int, depth: int, colour: int, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG of ``rows``, each starting with its filter number, with ``extra`` chunks before them."""
    return png_of(png_header(width, height, depth, colour), *extra, chunk(b"IDAT", zlib.compress(rows)))


def png_of_samples(samples: NDArray[Any], depth: int, colour: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """Return a PNG of ``samples`` (height, width, channels) whose rows use all five filters in turn."""
    height, width, channels = samples.shape
    reach = max(1, depth * channels // 8)
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in _ADAM7] if interlaced else [samples]
    rows = b"".join(_filtered(_packed(part, depth), reach) for part in passes if part.size)
    return png_of(png_header(width, height, depth, colour, interlaced), *extra, chunk(b"IDAT", zlib.compress(rows)))


def _packed(samples: NDArray[Any], depth: int) -> NDArray[Any]:
    """Return the packed bytes of the rows."""
    rows = samples.reshape(samples.shape[0], -1)
    if depth == 16:
        return rows.astype(">u2").view(np.uint8)
    bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(rows.shape[0], -1).astype(np.uint8), axis=1)


def _filtered(rows: NDArray[Any], reach: int) -> bytes:
    lines, above = [], np.zeros(rows.shape[1], int)
    for number, row in enumerate(rows.astype(int)):
        left, corner = (np.concatenate([np.zeros(reach, int), line])[: len(row)] for line in (row, above))
        estimate = left + above - corner
        far = [abs(estimate - near) for near in (left, above, corner)]
        paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], above, corner))
        kind = number % 5
        line = (row - [0 * row, left, above, (left + above) // 2, paeth][kind]) % 256
        lines.append(bytes([kind]) + line.astype(np.uint8).tobytes())
        above = row
    return b"".join(lines)


# --- JPEG --------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Return ``jpeg`` with ``segments`` inserted right after its start marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def jpeg_of_profile(profile: bytes) -> list[bytes]:
    parts = [profile[at : at + 60000] for at in range(0, len(profile), 60000)]
    return [
        segment(0xE2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part) for number, part in enumerate(parts, 1)
    ]


# --- WebP --------------------------------------------------------------------------------------


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 12, []
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        found.append((name, data[at + 8 : at + 8 + length]))
        at += 8 + length + (length & 1)
    return found


# --- colour profiles ---------------------------------------------------------------------------

_D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = (((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), "sRGB curve")


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def icc_profile(space: bytes = b"RGB ", *, kind: bytes = b"mntr", gamma: float | None = None) -> bytes:
    """Return a profile (ICC.1:2010, 7 to 10): Display P3's primaries with sRGB's curve, or grey; ``gamma``: another
    curve.
    """
    curve = (
        b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        if gamma is None
        else b"para\0\0\0\0\0\0\0\0" + _fixed(gamma)
    )
    white = b"XYZ \0\0\0\0" + _fixed(*_D50)
    tags = {b"wtpt": white}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:  # the primaries' columns, adapted to D50, as ICC's registry has them
        columns = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
        for name, column in zip(b"rgb", columns, strict=True):
            tags[bytes([name]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*column)
            tags[bytes([name]) + b"TRC"] = curve
    at, table, bodies = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body
    size = at + len(bodies)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x04000000, kind, space, b"XYZ ") + bytes(12) + b"acsp"
    header += bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies
