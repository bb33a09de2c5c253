"""Turn decoded pixels into pictures. NumPy and Pillow only; both engines use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Scale ``size`` so that its longest side is ``side``."""
    longest = max(size)
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def small(pixels: NDArray[np.float32], max_side: int) -> Image.Image:
    """Convert pixels (h, w, 3), about -1 … 1, to an RGB preview with no side larger than ``max_side``."""
    values = (np.nan_to_num(pixels) * 127.5 + 127.5).clip(0, 255).round().astype(np.uint8)
    picture = Image.fromarray(values)
    if max(picture.size) <= max_side:
        return picture
    return picture.resize(scaled(picture.size, max_side), Image.Resampling.LANCZOS)
