"""The source of an edit: the host's pictures and mask, decoded only in the engine process.

This module defines the size of an edit, what a mask means, and that pixels outside the mask stay unchanged. How a file
becomes pixels is defined in ``engine/decoding``. Every engine uses it.

- Without a size of its own, the job gets the size of its (first) picture. Otherwise picture and mask are resized to
  it, the mask by averaging, so that a thin line remains as a grey one.
- A model that takes several references sees each at its own size, whatever the job's: only a picture with more than
  :data:`REFERENCE_AREA` pixels is scaled down to that, and :func:`on_grid` crops it. (diffusers' pipelines do the
  same, and the model was trained this way.)
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
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage

    from locara_sidecar.ipc.frames import EditSpec, JobSpec, Sides


REFERENCE_AREA = 1 << 20
"""The maximum number of pixels of one reference for a model that takes several."""
LEAST_REFERENCE_SIDE = 64
MOST_REFERENCE_ASPECT = 8
"""diffusers' requirements for such a reference: pixels on its shorter side, and the ratio of its sides."""


class Source(NamedTuple):
    """A decoded edit: ``image`` (RGB) and ``mask`` (L; 255 is repainted, 0 stays) at the job's size.

    ``resized``: the host's picture had another size, so the result cannot keep any of its pixels. ``warnings``: (kind,
    sentence) pairs about anything doubtful. ``references``: for a model that takes several, all pictures of the call in
    its order, ``image`` included, each RGB at its own size; empty for any other model.
    """

    image: PilImage
    mask: PilImage | None = None
    strength: float | None = None
    resized: bool = False
    warnings: tuple[tuple[str, str], ...] = ()
    references: tuple[PilImage, ...] = ()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of what the model sees."""
        return tuple(picture.size for picture in self.references) or (self.image.size,)

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
    :raises EngineError: InvalidImage (with ``path`` ``$.image``, ``$.images[k]`` or ``$.mask``, and a ``reason``);
        InvalidParams with the nearest allowed ``width`` and ``height`` if the model does not support the source's own
        size; or what ``room`` raises, with that ``path``.
    """
    edit = spec.edit
    assert edit is not None
    row = FAMILIES.get(spec.model.family)  # the fake engine pretends to run other models, too
    several = len(edit.images) > 1 if row is None else row.references > 1
    warnings: list[tuple[str, str]] = []
    picture = _decoded(edit, 0, room, warnings)
    references = [_reference(picture, edit.path(0))] if several else []
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
    references += [
        _reference(_decoded(edit, index, room, warnings), edit.path(index)) for index in range(1, len(edit.images))
    ]
    return Source(picture, stencil, edit.strength, size != own, tuple(warnings), tuple(references))


def _decoded(edit: EditSpec, index: int, room: decoding.Room, warnings: list[tuple[str, str]]) -> PilImage:
    """Decode one of the pictures; anything doubtful is added to ``warnings``."""
    path = edit.path(index)
    with _Blaming(path):
        picture, warning = decoding.picture(edit.images[index], room)
    if warning is not None:
        which = f"{path.removeprefix('$.')}: " if len(edit.images) > 1 else ""
        warnings.append(("ColourProfileIgnored", f"{which}{warning}"))
    return picture


def _reference(picture: PilImage, path: str) -> PilImage:
    """Return a picture as a model that takes several sees it: with at most :data:`REFERENCE_AREA` pixels."""
    shorter, longer = sorted(picture.size)
    if shorter < LEAST_REFERENCE_SIDE or longer > shorter * MOST_REFERENCE_ASPECT:
        limits = f"at least {LEAST_REFERENCE_SIDE} on each side, and at most {MOST_REFERENCE_ASPECT} times as many"
        raise _refused(path, f"it has {_by(picture.size)} pixels; this model needs {limits} on the other")
    if math.prod(picture.size) <= REFERENCE_AREA:
        return picture
    scale = math.sqrt(REFERENCE_AREA / math.prod(picture.size))
    size = int(picture.width * scale), int(picture.height * scale)
    return picture.resize(size, Image.Resampling.LANCZOS)


def on_grid(reference: PilImage, grid: int) -> PilImage:
    """Crop a reference around its centre to multiples of ``grid`` pixels, the sides of one of the model's tokens."""
    width, height = reference.width // grid * grid, reference.height // grid * grid
    left, top = (reference.width - width) // 2, (reference.height - height) // 2
    return reference.crop((left, top, left + width, top + height))


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
    what = {"$.image": "The picture", "$.mask": "The mask"}.get(path, path.removeprefix("$."))
    return EngineError("InvalidImage", f"{what} cannot be used: {reason}.", path=path, reason=reason)


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
