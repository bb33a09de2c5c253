"""Decode pictures from outside: PNG, JPEG and WebP files to pixels and nothing else.

This package defines which files are accepted and how their depth, colours, transparency and rotation are handled. Each
format's module selects the parts that determine the pixels. Only those reach Pillow, which would otherwise reject good
pictures over the rest, and nothing else reaches the result. Pillow's warnings are ignored.

Peak memory while decoding follows from a file's header (:data:`HEIGHT`), so a caller can refuse a file before that
memory is taken.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageChops

from locara_sidecar.engine.decoding import colour, jpeg, png, webp
from locara_sidecar.engine.decoding.refusal import ImageError
from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["FORMATS", "HEIGHT", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "ImageError", "Room", "picture", "stencil"]

MAX_BYTES = 64 * 1024 * 1024
MAX_PIXELS = 1 << 26
MAX_SIDE = (1 << 16) - 1
"""In pixels. Pillow allocates a pointer and at least four bytes for each row."""
HEIGHT = {"PNG": 14, "JPEG": 17, "WEBP": 18}
"""Upper bound on peak memory while decoding, in bytes per pixel: with a profile, rotation and transparency.

PNG: two colour pictures (8) and, at 16 bits, a third one or what is computed from it. JPEG: a progressive file's
coefficients (8) and two pictures to compare. WebP: libwebp's canvases, its output and Pillow's picture take 16.
``tests/engine/decoding/test_memory.py`` measures each format.
"""
_COPIES = 5
"""Upper bound on the number of copies of the file's own bytes while decoding."""
_FIXED = 8 << 20  # bytes: fixed cost of any picture; profiles and their tables
FORMATS = ("PNG", "JPEG", "WEBP")

_STRIP = 256  # rows
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Maps an EXIF orientation to the transposition that undoes it (Exif 2.32, 4.6.4 A)."""
_FILLERS = (b"", b"\xaa" * 64, b"\x55" * 64)
"""Alternative ends for a JPEG whose end is missing."""


class _Decoded(NamedTuple):
    """``image``: upright, 8 bits per channel, any mode.

    ``profile``: its ICC profile; None if it has none, empty if it cannot be read. ``other_space``: whether it declares
    a colour space other than sRGB without a profile.
    """

    image: PilImage
    profile: bytes | None = None
    other_space: bool = False


class Picture(NamedTuple):
    """``image``: mode RGB, sRGB. ``warning``: a sentence if its colours may be wrong."""

    image: PilImage
    warning: str | None


Room = Callable[[int], None]
"""Called with the peak memory of decoding, in bytes, before it is allocated; raises to refuse it."""


def picture(data: bytes, room: Room | None = None) -> Picture:
    """Decode a still picture: upright, in sRGB, with transparency blended onto white.

    :raises ImageError: for a file that cannot be used as a picture. Whatever ``room`` raises is passed on.
    """
    image, profile, other_space = _decode(data, room)
    warning = None
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    elif image.mode == "P":
        image = image.convert("RGB")
    if other_space:
        warning = (
            "The picture declares a colour space other than sRGB by PNG's cICP, gAMA or cHRM, which are not applied. "
            "Its values were read as sRGB."
        )
    elif profile is not None:
        image, fault = colour.to_srgb(image, profile)
        if fault is not None:
            warning = f"The picture's colour profile was not applied: {fault}. Its values were read as sRGB."
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None:
        image = _on(image, alpha, 255)
    return Picture(_bare(image), warning)


def stencil(data: bytes, room: Room | None = None) -> PilImage:
    """Decode a mask to levels (mode L): upright, 0 where it is transparent.

    A profile is ignored, since levels are not colours.

    :raises ImageError: for a file that cannot be used as a picture. Whatever ``room`` raises is passed on.
    """
    image = _decode(data, room).image
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if image.mode not in ("L", "LA", "RGB"):
        image = image.convert("RGB")
    image = image.convert("L")
    if alpha is not None:
        image = _on(image, alpha, 0)
    return _bare(image)


def _on(image: PilImage, alpha: PilImage, grey: int) -> PilImage:
    """Blend ``image`` (L or RGB) onto a grey background."""
    ground = Image.new(image.mode, image.size, (grey,) * len(image.getbands()))
    ground.paste(image, mask=alpha)  # like Image.composite, but with one copy less
    return ground


def _bare(image: PilImage) -> PilImage:
    """Copy only the pixels: Pillow writes whatever else it keeps with an image into the next file."""
    bare = Image.new(image.mode, image.size)
    bare.paste(image)
    return bare


def _decode(data: bytes, room: Room | None) -> _Decoded:
    if len(data) > MAX_BYTES:
        raise ImageError(f"it is {len(data)} bytes long; at most {MAX_BYTES} are allowed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _by_kind(data, room or (lambda _: None))
        except (ImageError, EngineError, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(f"it has too many pixels; at most {MAX_PIXELS} are allowed") from error
        except Exception as error:  # Pillow's decoders raise whatever their parsers happen to raise
            raise ImageError(f"it is broken or incomplete ({type(error).__name__})") from error


def _by_kind(data: bytes, room: Room) -> _Decoded:
    if data.startswith(png.SIGNATURE):
        return _png(data, room)
    if data.startswith(jpeg.SIGNATURE):
        return _jpeg(data, room)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data, room)
    raise ImageError("it is not a PNG, JPEG or WebP file, or its header is broken")


def _png(data: bytes, room: Room) -> _Decoded:
    found = png.parse(data)
    _require_few_pixels(found.size)
    _require_still(found.still)
    room(_bytes("PNG", found.size, data))
    profile = None if found.profile is None else _inflated(found.profile)
    return _Decoded(_upright(png.decode(found), found.exif), profile, found.other_space)


def _jpeg(data: bytes, room: Room) -> _Decoded:
    found = jpeg.parse(data)
    size = _opened(found.data, "JPEG").size
    _require_few_pixels(size)
    room(_bytes("JPEG", size, data))
    return _Decoded(_upright(_pixels_of_jpeg(found.data), found.exif), found.profile)


def _webp(data: bytes, room: Room) -> _Decoded:
    found = webp.parse(data)
    _require_few_pixels(found.size)
    _require_still(found.still)
    room(_bytes("WEBP", found.size, data))
    image = _opened(found.data, "WEBP")
    _require_few_pixels(image.size)
    image.load()
    return _Decoded(_upright(image, found.exif), found.profile)


def _bytes(form: str, size: tuple[int, int], data: bytes) -> int:
    """Return the peak memory while decoding, in bytes."""
    return _FIXED + HEIGHT[form] * math.prod(size) + _COPIES * len(data)


def _opened(data: bytes, form: str) -> PilImage:
    return Image.open(io.BytesIO(data), formats=(form,))


def _pixels_of_jpeg(data: bytes) -> PilImage:
    """Decode a JPEG, even if its end marker is missing, as long as the picture is complete.

    If anything before the marker is missing, different fillers give different pictures, and the file is rejected.
    """
    image = _opened(data, "JPEG")
    try:
        image.load()
        return image
    except OSError:
        if data.endswith(jpeg.END):
            raise
    del image
    begun = data.rstrip(jpeg.END[:1])
    first = None
    for filler in _FILLERS:
        one = _opened(begun + filler + jpeg.END, "JPEG")
        one.load()
        first = first or one
        if one is not first and not _same(one, first):
            raise ImageError("it is incomplete")
    assert first is not None
    return first


def _same(one: PilImage, other: PilImage) -> bool:
    """Whether two pictures of one size are equal.

    Compared in strips, since a whole difference would be as large as a picture.
    """
    width, height = one.size
    boxes = [(0, top, width, min(top + _STRIP, height)) for top in range(0, height, _STRIP)]
    return all(ImageChops.difference(one.crop(box), other.crop(box)).getbbox() is None for box in boxes)


def _require_few_pixels(size: tuple[int, int]) -> None:
    if math.prod(size) > MAX_PIXELS or max(size) > MAX_SIDE:
        limits = f"at most {MAX_PIXELS} in all are allowed, and {MAX_SIDE} per side"
        raise ImageError(f"it has {size[0]} × {size[1]} pixels; {limits}")


def _require_still(still: bool) -> None:
    if not still:
        raise ImageError("it is animated; send one frame of it")


def _inflated(profile: bytes) -> bytes:
    """Decompress the profile in an iCCP chunk.

    Returns b"" if it is broken. A profile that is too long is cut off just above the limit, and rejected for its
    length.
    """
    _, _, packed = profile.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], colour.MAX_PROFILE + 1)
    except zlib.error:
        return b""


def _upright(image: PilImage, data: bytes | None) -> PilImage:
    """Rotate as the EXIF data says; ignores unreadable data."""
    orientation = None
    if data is not None:
        exif = Image.Exif()
        try:
            exif.load(data)
            orientation = exif.get(_ORIENTATION)
        except Exception:  # noqa: BLE001  the pixels are whole, and cameras write strange EXIF
            orientation = None
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
