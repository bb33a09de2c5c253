"""The source of an edit: the host's picture and mask at the job's size, decoded only in the engine process.

This module defines the size of an edit, what a mask means, and that pixels outside the mask stay unchanged. How a file
becomes pixels is defined in ``engine/decoding``. Every engine uses it.

- Without a size of its own, the job gets the source's size. Otherwise picture and mask are resized to it, the mask by
  averaging, so that a thin line remains as a grey one.
- The mask's level is the opacity of the model's picture in the result: 255 all of it, 0 none, in proportion between.
  The model works on latents, each of which covers a patch of pixels; it repaints every patch that has any level above
  0. (diffusers' pipelines cut the mask off at half and look at one pixel per patch, so a line that misses it is not
  repainted. For masks that are black and white and aligned with the patches, the results are the same.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from locara_sidecar.engine import decoding
from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage

    from locara_sidecar.ipc.frames import JobSpec, Sides


class Source(NamedTuple):
    """A decoded edit: ``image`` (RGB) and ``mask`` (L; 255 is repainted, 0 stays) at the job's size.

    ``resized``: the host's picture had another size, so the result cannot keep any of its pixels. ``warnings``: (kind,
    sentence) pairs about anything doubtful.
    """

    image: PilImage
    mask: PilImage | None = None
    strength: float | None = None
    resized: bool = False
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def width(self) -> int:
        """In pixels, at the job's size."""
        return self.image.width

    @property
    def height(self) -> int:
        """In pixels, at the job's size."""
        return self.image.height


def read(spec: JobSpec, room: decoding.Room) -> Source:
    """Decode the files in ``spec.edit``.

    :param room: called before each file is decoded; raises if there is not enough memory.
    :raises EngineError: InvalidImage (with ``path`` ``$.image`` or ``$.mask``, and a ``reason``); InvalidParams with
        the nearest allowed ``width`` and ``height`` if the model does not support the source's own size; or what
        ``room`` raises, with that ``path``.
    """
    edit = spec.edit
    assert edit is not None
    with _Blaming("$.image"):
        picture, warning = decoding.picture(edit.image, room)
    stencil = None
    if edit.mask is not None:
        with _Blaming("$.mask"):
            stencil = decoding.stencil(edit.mask, room)
    if stencil is not None and stencil.size != picture.size:
        sizes = f"{_by(stencil.size)} pixels and the picture {_by(picture.size)}"
        raise _refused("$.mask", f"it has {sizes}; they must be the same")
    own, size = picture.size, (spec.width or picture.width, spec.height or picture.height)
    _require_allowed(size, spec.model.sides, spec.model.id)
    if size != own:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        stencil = None if stencil is None else stencil.resize(size, Image.Resampling.BOX)
    warnings = () if warning is None else (("ColourProfileIgnored", warning),)
    return Source(picture, stencil, edit.strength, size != own, warnings)


def require_no_mask(source: Source, reason: str) -> None:
    """Reject a mask for a model that does not support one.

    :raises EngineError: InvalidParams with ``reason``.
    """
    if source.mask is not None:
        raise EngineError("InvalidParams", reason, path="$.mask")


def require_plain_latents(source: Source, mean: object) -> None:
    """Reject a mask if the autoencoder has latent means.

    With a mask, diffusers' SDXL pipeline encodes the picture without the means that it decodes with.

    :param mean: the autoencoder's ``latents_mean``, or None.
    :raises EngineError: InvalidParams.
    """
    if mean is not None:
        require_no_mask(source, "This model's autoencoder has latents_mean; such models take no mask.")


def painted_patches(mask: PilImage, factor: int) -> NDArray[np.bool_]:
    """Return which latents the model repaints, (height / factor, width / factor): those with any level above 0.

    :param factor: pixels of the image per latent pixel, in both directions.
    """
    import numpy as np  # imported here: installations without an engine lack it, and the fake engine decodes too

    height, width = mask.height // factor, mask.width // factor
    painted: NDArray[np.bool_] = np.asarray(mask).reshape(height, factor, width, factor).max(axis=(1, 3)) > 0
    return painted


def composite(source: Source, pixels: PilImage) -> PilImage:
    """Blend ``pixels`` (RGB, of the source's size) over the source, with the mask as opacity."""
    return pixels if source.mask is None else Image.composite(pixels, source.image, source.mask)


def nearest(size: tuple[int, int], sides: Sides) -> tuple[int, int]:
    """Return the allowed size closest to ``size`` in aspect ratio and, within the bounds, in area."""
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
    raise EngineError(
        "InvalidParams",
        f"{model} cannot make pictures of {_by(size)} pixels (the source's size); the nearest size that it supports "
        f"is {_by((width, height))}: pass that as width and height to have the source resized.",
        path="$.options.height" if wrong == [False, True] else "$.options.width",
        width=width,
        height=height,
    )


def _refused(path: str, reason: str) -> EngineError:
    what = {"$.image": "picture", "$.mask": "mask"}[path]
    return EngineError("InvalidImage", f"The {what} cannot be used: {reason}.", path=path, reason=reason)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


class _Blaming:
    """Reports a rejected file as an error about the member at ``path``, and adds that path to other errors."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        del kind, trace
        if isinstance(error, decoding.ImageError):
            raise _refused(self._path, error.reason) from error
        if isinstance(error, EngineError):
            error.data.setdefault("path", self._path)
