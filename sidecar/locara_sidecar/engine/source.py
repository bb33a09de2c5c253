"""What an edit starts from: the host's picture and mask, decoded here and nowhere else, at the job's size.

Owned here: which files are taken as pictures, what is made of their depth, colours, transparency and rotation, which
size an edit has, and that pixels outside the mask stay as they were. Pillow only (NumPy for 16 bits of grey); every
engine uses it.

- PNG, JPEG and WebP, still ones, up to :data:`MAX_BYTES` and :data:`MAX_PIXELS`, which is looked at before anything is
  decoded. Whatever Pillow says against a file, if only in a warning, refuses it (but for its EXIF data).
- EXIF rotation is applied. 16 bits become 8; grey, palette and CMYK become RGB by their numbers (colour profiles are
  not applied). A transparent picture lies on white, a transparent mask on black: what nobody painted stays.
- Without a size of its own the job has the source's. With another one, picture and mask are resized to it.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, UnidentifiedImageError

from locara_sidecar.engine.runtime import EngineFault

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from locara_sidecar.engine.frames import JobSpec, Sides

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


class Source(NamedTuple):
    """A decoded edit: ``image`` (RGB) and ``mask`` (L, only 0 and 255; 255 is repainted) of the job's size.

    ``resized``: the host's picture had another size, so that no pixel of the result can be one of its own.
    """

    image: PilImage
    mask: PilImage | None = None
    strength: float | None = None
    resized: bool = False

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height


def read(spec: JobSpec) -> Source:
    """Decode what ``spec.edit`` holds.

    :raises EngineFault: InvalidImage (``path`` is ``$.image`` or ``$.mask``, ``reason`` says why), or InvalidParams
        with the nearest allowed ``width`` and ``height`` where the source's own size is none for the model.
    """
    edit = spec.edit
    assert edit is not None
    image = _decode(edit.image, "$.image")
    mask = None if edit.mask is None else _decode(edit.mask, "$.mask")
    if mask is not None and mask.size != image.size:
        sizes = f"{_by(mask.size)} pixels and the picture {_by(image.size)}"
        raise _refused("$.mask", f"it has {sizes}; they must be the same")
    size = (spec.width or image.width, spec.height or image.height)
    _require_allowed(size, spec.model.sides, spec.model.id)
    picture = _flat(image, 255).convert("RGB")
    stencil = None if mask is None else _stencil(mask)
    if size != image.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        stencil = None if stencil is None else stencil.resize(size, Image.Resampling.NEAREST)
    return Source(picture, stencil, edit.strength, resized=size != image.size)


def require_no_mask(source: Source) -> None:
    """:raises EngineFault: InvalidParams, for a model that follows an instruction."""
    if source.mask is not None:
        raise EngineFault("InvalidParams", "Kontext follows the instruction alone and takes no mask.", path="$.mask")


def composite(source: Source, pixels: PilImage) -> PilImage:
    """``pixels`` (RGB, of the source's size) where the mask is 255, the source's own where it is 0."""
    return pixels if source.mask is None else Image.composite(pixels, source.image, source.mask)


def nearest(size: tuple[int, int], sides: Sides) -> tuple[int, int]:
    """The allowed size closest to ``size`` in shape, and in extent where the bounds let it."""
    step = sides.multiple_of
    least, most = math.ceil(sides.minimum / step) * step, sides.maximum // step * step
    scale = min(1.0, most / max(size), math.sqrt(sides.max_pixels / math.prod(size)))
    scale = max(scale, least / min(size))
    found = [min(max(round(side * scale / step) * step, least), most) for side in size]
    while math.prod(found) > sides.max_pixels:
        found[found.index(max(found))] -= step
    return found[0], found[1]


def _require_allowed(size: tuple[int, int], sides: Sides, model: str) -> None:
    wrong = [not sides.minimum <= side <= sides.maximum or side % sides.multiple_of > 0 for side in size]
    if not any(wrong) and math.prod(size) <= sides.max_pixels:
        return
    width, height = nearest(size, sides)
    raise EngineFault(
        "InvalidParams",
        f"{model} makes no picture of {_by(size)} pixels, the size of the source; the nearest that it makes is "
        f"{_by((width, height))}: name it as width and height, and the source is resized.",
        path="$.options.height" if wrong == [False, True] else "$.options.width",
        width=width,
        height=height,
    )


def _refused(path: str, reason: str) -> EngineFault:
    what = {"$.image": "picture", "$.mask": "mask"}[path]
    return EngineFault("InvalidImage", f"The {what} cannot be used: {reason}.", path=path, reason=reason)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _decode(data: bytes, path: str) -> PilImage:
    """A still picture of any mode, upright."""
    if len(data) > MAX_BYTES:
        raise _refused(path, f"it has {len(data)} bytes; {MAX_BYTES} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # it reads the EXIF data, no pixels
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if math.prod(image.size) > MAX_PIXELS:
                raise _refused(path, f"it has {_by(image.size)} pixels; {MAX_PIXELS} in all are allowed")
            # a JPEG of several pictures (format MPO) is a camera's photo with its smaller copies
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise _refused(path, "it is animated; send one frame of it")
            image.load()
            return _upright(image)
    except (EngineFault, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise _refused(path, "it is no PNG, JPEG or WebP file, or its beginning is broken") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _refused(path, f"it has too many pixels; {MAX_PIXELS} in all are allowed") from error
    except Exception as error:  # Pillow's decoders raise whatever their parsers happen to
        raise _refused(path, f"it is broken or incomplete ({type(error).__name__})") from error


def _upright(image: PilImage) -> PilImage:
    """Turned as its EXIF data says; data that nobody can read says nothing."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  the pixels are whole, and cameras write strange EXIF
        orientation = None
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _flat(image: PilImage, ground: int) -> PilImage:
    """Without transparency, on a ground of that grey, 8 bits a channel (L or RGB)."""
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion cuts at 255
        return _grey_of_16_bits(image, ground)
    if not image.has_transparency_data:
        return image if image.mode == "L" else image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (ground, ground, ground, 255)), colours).convert("RGB")


def _grey_of_16_bits(image: PilImage, ground: int) -> PilImage:
    """Mode L. One grey may stand for transparent (PNG's tRNS chunk)."""
    import numpy as np  # an installation without an engine lacks it, and the fake engine decodes too

    values = np.asarray(image).astype(np.int64)
    levels = ((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)
    if "transparency" in image.info:
        levels[values == image.info["transparency"]] = ground
    return Image.fromarray(levels)


def _stencil(mask: PilImage) -> PilImage:
    """0 and 255, parted at 128."""
    return _flat(mask, 0).convert("L").point([0] * 128 + [255] * 128)
