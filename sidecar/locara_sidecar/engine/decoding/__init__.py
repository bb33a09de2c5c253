"""Pictures from outside, decoded: PNG, JPEG and WebP files to pixels and nothing else.

Owned here: which files are taken as pictures, and what is made of their depth, colours, transparency and rotation.
Each format's own module picks the parts that determine the pixels; only those reach Pillow, whose opinion of the rest
would refuse good pictures, and nothing of the rest reaches the result. Pillow's warnings decide nothing.

What decoding takes is known from a file's header (:data:`HEIGHT`), and whoever calls may refuse it before it is taken.
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
"""Pixels. Pillow has a pointer for each row, and gives no row less than four bytes."""
HEIGHT = {"PNG": 14, "JPEG": 17, "WEBP": 18}
"""Bytes for each pixel at the height of decoding, at the most: with a profile, turned, and transparent. For a PNG 14
are two pictures of colours (8) and, of 16 bits, one more or what is made of it; a JPEG that is progressive keeps its
coefficients (8), and two pictures to compare; libwebp's canvases, its answer and Pillow's picture are 16.
``tests/engine/decoding/test_memory.py`` measures each kind."""
_COPIES = 5
"""How often a file's own bytes are there then, at the most."""
_FIXED = 8 << 20  # bytes: what a picture takes however small it is; profiles and their tables
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
"""EXIF orientation to what undoes it (Exif 2.32, 4.6.4 A)."""
_FILLERS = (b"", b"\xaa" * 64, b"\x55" * 64)
"""What might have stood at the end of a JPEG that has none."""


class _Decoded(NamedTuple):
    """``image``: upright, 8 bits a channel, any mode. ``profile``: its ICC profile, None without one, empty if it is
    lost."""

    image: PilImage
    profile: bytes | None = None


class Picture(NamedTuple):
    """``image``: mode RGB, sRGB. ``warning``: a sentence about its colours, if they are in doubt."""

    image: PilImage
    warning: str | None


Room = Callable[[int], None]
"""Called with the bytes that decoding will take at its height, before it takes them; raises to refuse them."""


def picture(data: bytes, room: Room | None = None) -> Picture:
    """A still picture, upright, in sRGB, on white where it is transparent.

    :raises ImageError: for a file that is none; and what ``room`` raises.
    """
    image, profile = _decode(data, room)
    warning = None
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile is not None:
        image, fault = colour.to_srgb(image, profile)
        if fault is not None:
            warning = f"The picture's colour profile was not applied: {fault}. Its numbers were taken as sRGB."
    if image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is not None:
        image = _on(image, alpha, 255)
    return Picture(_bare(image), warning)


def stencil(data: bytes, room: Room | None = None) -> PilImage:
    """A mask's levels (mode L), upright, 0 where it is transparent. They are no colours: a profile is passed over.

    :raises ImageError: for a file that is none; and what ``room`` raises.
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
    """``image`` (L or RGB) on a ground of that grey."""
    ground = Image.new(image.mode, image.size, (grey,) * len(image.getbands()))
    ground.paste(image, mask=alpha)  # as Image.composite does, which takes a copy more
    return ground


def _bare(image: PilImage) -> PilImage:
    """The pixels alone: what Pillow keeps beside them it would write into the next file."""
    bare = Image.new(image.mode, image.size)
    bare.paste(image)
    return bare


def _decode(data: bytes, room: Room | None) -> _Decoded:
    if len(data) > MAX_BYTES:
        raise ImageError(f"it has {len(data)} bytes; {MAX_BYTES} are allowed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _by_kind(data, room or (lambda _: None))
        except (ImageError, EngineError, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(f"it has too many pixels; {MAX_PIXELS} in all are allowed") from error
        except Exception as error:  # Pillow's decoders raise whatever their parsers happen to
            raise ImageError(f"it is broken or incomplete ({type(error).__name__})") from error


def _by_kind(data: bytes, room: Room) -> _Decoded:
    if data.startswith(png.SIGNATURE):
        return _png(data, room)
    if data.startswith(jpeg.SIGNATURE):
        return _jpeg(data, room)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data, room)
    raise ImageError("it is not a PNG, JPEG or WebP file, or its beginning is broken")


def _png(data: bytes, room: Room) -> _Decoded:
    found = png.parse(data)
    _require_few_pixels(found.size)
    _require_still(found.still)
    room(_bytes("PNG", found.size, data))
    profile = None if found.profile is None else _inflated(found.profile)
    return _Decoded(_upright(png.decode(found), found.exif), b"" if found.other_space else profile)


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
    """What decoding takes at its height."""
    return _FIXED + HEIGHT[form] * math.prod(size) + _COPIES * len(data)


def _opened(data: bytes, form: str) -> PilImage:
    return Image.open(io.BytesIO(data), formats=(form,))


def _pixels_of_jpeg(data: bytes) -> PilImage:
    """The picture, also where only the mark of its end is missing.

    Where something is missing before that, what is put in its place shows: then it is no whole picture.
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
    """Whether two pictures of one size are alike, compared in strips: a whole third one would be as large."""
    width, height = one.size
    boxes = [(0, top, width, min(top + _STRIP, height)) for top in range(0, height, _STRIP)]
    return all(ImageChops.difference(one.crop(box), other.crop(box)).getbbox() is None for box in boxes)


def _require_few_pixels(size: tuple[int, int]) -> None:
    if math.prod(size) > MAX_PIXELS or max(size) > MAX_SIDE:
        limits = f"{MAX_PIXELS} in all are allowed, and {MAX_SIDE} on a side"
        raise ImageError(f"it has {size[0]} × {size[1]} pixels; {limits}")


def _require_still(still: bool) -> None:
    if not still:
        raise ImageError("it is animated; send one frame of it")


def _inflated(profile: bytes) -> bytes:
    """The profile in an iCCP chunk; empty if it is broken, too long for use if it is too long."""
    _, _, packed = profile.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], colour.MAX_PROFILE + 1)
    except zlib.error:
        return b""


def _upright(image: PilImage, data: bytes | None) -> PilImage:
    """Turned as its EXIF data says; data that nobody can read says nothing."""
    orientation = None
    if data is not None:
        exif = Image.Exif()
        try:
            exif.load(data)
            orientation = exif.get(_ORIENTATION)
        except Exception:  # noqa: BLE001  the pixels are whole, and cameras write strange EXIF
            orientation = None
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
