"""What tests edit: a picture with soft shapes, and a mask that is not aligned with the latent grid."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from locara_sidecar.engine.previews import linear_preview
from locara_sidecar.ipc.frames import EditSpec

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage


def photo(width: int = 64, height: int = 64) -> PilImage:
    pixels = linear_preview.synthetic_pictures(1, max(width, height), seed=3)[0, :, :height, :width]
    return Image.fromarray((pixels.transpose(1, 2, 0) * 127.5 + 127.5).astype(np.uint8))


def stencil(width: int = 64, height: int = 64) -> PilImage:
    mask = Image.new("L", (width, height))
    mask.paste(255, (16, 8, 50, 41))
    return mask


def patches(mask: PilImage, factor: int = 8) -> PilImage:
    """Return ``mask`` with every patch white that contains anything above black, which is what diffusers must be
    given."""
    levels = np.array(mask)
    for y in range(0, mask.height, factor):
        for x in range(0, mask.width, factor):
            patch = levels[y : y + factor, x : x + factor]
            patch[:] = 255 * bool(patch.any())
    return Image.fromarray(levels)


def png(image: PilImage) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def edit(image: PilImage | None = None, mask: PilImage | None = None, strength: float | None = 0.6) -> EditSpec:
    return EditSpec(images=[png(image or photo())], mask=None if mask is None else png(mask), strength=strength)
