"""What an edit starts from, decoded: the source image, the mask and how far the result may leave the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage


class Source(NamedTuple):
    """``image``: RGB. ``mask``: mode L, white is repainted; None repaints all. ``strength`` in (0, 1]; None for a model
    that follows an instruction."""

    image: PilImage
    mask: PilImage | None = None
    strength: float | None = None
