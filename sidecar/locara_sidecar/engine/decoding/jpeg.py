"""JPEG: select the segments that determine the pixels; only those reach the decoder.

A camera's index of further pictures (MPF), previews, comments and gain maps may be broken or point anywhere. That is no
reason to reject the picture.
"""

from __future__ import annotations

from typing import NamedTuple

from locara_sidecar.engine.decoding.refusal import ImageError

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"

_SOS, _EOI, _COM = 0xDA, 0xD9, 0xFE
_ALONE = {0x01, *range(0xD0, 0xD9)}
"""Markers without a segment."""
_ICC = b"ICC_PROFILE\0"
_EXIF = b"Exif\0\0"
MAX_SEGMENTS = 8192
"""Limit before the first scan. The largest profile takes 255; each segment costs more memory than it has bytes."""
MAX_SCANS = 64
"""Each scan takes another pass over the whole picture; encoders write up to 14."""


class Jpeg(NamedTuple):
    """The contents of a JPEG. ``data``: the file without anything that does not determine its pixels."""

    data: bytes
    exif: bytes | None
    profile: bytes | None


def parse(data: bytes) -> Jpeg:
    """Read the segments up to the first scan (ITU-T T.81, B.1).

    :raises ImageError: for a file that no decoder accepts.
    """
    kept, exif, profile = [data[:2]], None, list[bytes]()
    at, segments = 2, 0
    while True:
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ImageError(f"it has more than {MAX_SEGMENTS} segments")
        at = _next_marker(data, at)
        marker = data[at]
        if marker == 0 or marker in _ALONE:
            at += 1
            continue
        if marker == _SOS:
            _require_few_scans(data, at)
            return Jpeg(b"".join([*kept, b"\xff", data[at:]]), exif, _joined(profile))
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        segment = data[at : at + 1 + length]
        if marker == _EOI or length < 2 or len(segment) != 1 + length:
            raise ImageError("it is a broken or incomplete JPEG")
        at += 1 + length
        body = segment[3:]
        if marker == 0xE1 and body.startswith(_EXIF) and exif is None:
            exif = body
        elif marker == 0xE2 and body.startswith(_ICC):
            profile.append(body[len(_ICC) :])
        if _counts(marker, body):
            kept.append(b"\xff" + segment)


def _next_marker(data: bytes, at: int) -> int:
    """Return the position of the next marker code."""
    at = data.find(b"\xff", at)
    while data[at : at + 1] == b"\xff":  # markers may be padded
        at += 1
    if at <= 0 or at >= len(data):
        raise ImageError("it is a broken or incomplete JPEG")
    return at


def _require_few_scans(data: bytes, at: int) -> None:
    """Limit the number of scans. Scan data escapes 0xFF with a 0 byte, so it contains no markers.

    :param at: where the first scan begins.
    :raises ImageError: for a file with too many.
    """
    end = data.find(END, at)
    scans = 1 + data.count(bytes((0xFF, _SOS)), at, end if end >= 0 else len(data))
    if scans > MAX_SCANS:
        raise ImageError(f"it has {scans} scans; at most {MAX_SCANS} are allowed")


def _counts(marker: int, body: bytes) -> bool:
    """Whether a segment affects the pixels. Of the APPn segments, only the two that define the colour space do."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == _COM)


def _joined(parts: list[bytes]) -> bytes | None:
    """Join the numbered parts of an ICC profile (ICC.1, B.4). Empty, so that it is invalid, if parts are missing."""
    if not parts:
        return None
    parts = sorted(parts)
    whole = [part[:2] for part in parts] == [bytes((number, len(parts))) for number in range(1, len(parts) + 1)]
    return b"".join(part[2:] for part in parts) if whole else b""
