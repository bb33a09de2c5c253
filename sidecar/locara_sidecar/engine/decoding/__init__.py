"""Pictures from outside, decoded: PNG, JPEG and WebP files to pixels and nothing else.

Owned here: which files are taken as pictures, and what is made of their depth, colours, transparency and rotation.
Each format's own module picks the parts that determine the pixels; only those reach Pillow, whose opinion of the rest
would refuse good pictures, and nothing of the rest reaches the result. Pillow's warnings decide nothing.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageChops

from locara_sidecar.engine.decoding import colour, jpeg, png, webp
from locara_sidecar.engine.decoding.refusal import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "ImageError", "picture", "stencil"]

MAX_BYTES = 64 * 1024 * 1024
MAX_PIXELS = 1 << 26
FORMATS = ("PNG", "JPEG", "WEBP")

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


def picture(data: bytes) -> Picture:
    """A still picture, upright, in sRGB, on white where it is transparent.

    :raises ImageError: for a file that is none.
    """
    image, profile = _decode(data)
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


def stencil(data: bytes) -> PilImage:
    """A mask's levels (mode L), upright, 0 where it is transparent. They are no colours: a profile is passed over.

    :raises ImageError: for a file that is none.
    """
    image = _decode(data).image
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


def _decode(data: bytes) -> _Decoded:
    if len(data) > MAX_BYTES:
        raise ImageError(f"it has {len(data)} bytes; {MAX_BYTES} are allowed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _by_kind(data)
        except (ImageError, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(f"it has too many pixels; {MAX_PIXELS} in all are allowed") from error
        except Exception as error:  # Pillow's decoders raise whatever their parsers happen to
            raise ImageError(f"it is broken or incomplete ({type(error).__name__})") from error


def _by_kind(data: bytes) -> _Decoded:
    if data.startswith(png.SIGNATURE):
        return _png(data)
    if data.startswith(jpeg.SIGNATURE):
        return _jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    raise ImageError("it is not a PNG, JPEG or WebP file, or its beginning is broken")


def _png(data: bytes) -> _Decoded:
    found = png.parse(data)
    _require_few_pixels(found.size)
    _require_still(found.still)
    profile = None if found.profile is None else _inflated(found.profile)
    return _Decoded(_upright(png.decode(found), found.exif), b"" if found.other_space else profile)


def _jpeg(data: bytes) -> _Decoded:
    found = jpeg.parse(data)
    _require_few_pixels(_opened(found.data, "JPEG").size)
    return _Decoded(_upright(_pixels_of_jpeg(found.data), found.exif), found.profile)


def _webp(data: bytes) -> _Decoded:
    found = webp.parse(data)
    _require_still(found.still)
    image = _opened(found.data, "WEBP")
    _require_few_pixels(image.size)
    image.load()
    return _Decoded(_upright(image, found.exif), found.profile)


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
    begun = data.rstrip(jpeg.END[:1])
    tries = [_opened(begun + filler + jpeg.END, "JPEG") for filler in _FILLERS]
    for one in tries:
        one.load()
        if ImageChops.difference(one, tries[0]).getbbox() is not None:
            raise ImageError("it is incomplete")
    return tries[0]


def _require_few_pixels(size: tuple[int, int]) -> None:
    if math.prod(size) > MAX_PIXELS:
        raise ImageError(f"it has {size[0]} × {size[1]} pixels; {MAX_PIXELS} in all are allowed")


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
