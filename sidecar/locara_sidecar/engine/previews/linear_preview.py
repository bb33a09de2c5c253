"""Linear previews: multiplying a latent pixel's channels by a matrix and adding a bias gives roughly its colour.

This module fits that matrix to a model's own autoencoder by least squares, stores it beside the model and applies it.
NumPy only; both engines use it. Latents are *raw*: as the autoencoder's decoder takes them (``z / scaling + shift``),
not as the denoiser does. Colours are in -1 … 1.

The file format, ``linear_preview.json``::

  {"format": "locara-linear-preview/1", "latentChannels": C, "matrix": [[r, g, b] x C], "bias": [r, g, b]}
"""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from locara_sidecar.engine.previews.pictures import scaled
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image as PilImage

_logger = logging.getLogger(__name__)

FORMAT = "locara-linear-preview/1"
FILE_NAME = "linear_preview.json"

_PICTURES = 8
_LATENT_SIDE = 16
_COMFORTABLE_SIDE = 128
"""A preview is enlarged up to this side, so that small latents look like a picture; hosts scale further."""

Floats = NDArray[np.float32]


class LinearPreview(NamedTuple):
    """``matrix``: (C, 3); ``bias``: (3,); ``residual``: RMS error of the fit, NaN if read from a file."""

    matrix: Floats
    bias: Floats
    residual: float = math.nan

    def apply(self, latent: Floats) -> NDArray[np.uint8]:
        """Convert a raw latent (C, h, w) to RGB bytes (h, w, 3)."""
        colours = np.moveaxis(latent, 0, -1) @ self.matrix + self.bias
        return np.clip(np.nan_to_num(colours) * 127.5 + 127.5, 0, 255).round().astype(np.uint8)

    def picture(self, latent: Floats, factor: int, max_side: int) -> PilImage:
        """Convert a raw latent (C, h, w) to a small RGB picture.

        :param factor: pixels of the finished picture per latent pixel, along each side.
        :param max_side: upper limit for both sides.
        """
        picture = Image.fromarray(self.apply(latent))
        longest = max(picture.size)
        side = min(max_side, max(longest, min(_COMFORTABLE_SIDE, longest * factor)))
        return picture if side == longest else picture.resize(scaled(picture.size, side), Image.Resampling.BICUBIC)

    def to_json(self) -> dict[str, Any]:
        """Return the contents of its file."""
        return {
            "format": FORMAT,
            "latentChannels": len(self.matrix),
            "matrix": [[round(float(value), 5) for value in row] for row in self.matrix],
            "bias": [round(float(value), 5) for value in self.bias],
        }


def read(folder: Path, channels: int) -> LinearPreview | None:
    """Read the preview stored in a model's folder. None if there is no valid one for ``channels`` channels."""
    try:
        value = json.loads(text_files.read(folder / FILE_NAME))
        if value["format"] != FORMAT or value["latentChannels"] != channels:
            return None
        matrix, bias = np.array(value["matrix"], dtype=np.float32), np.array(value["bias"], dtype=np.float32)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    fits = (
        matrix.shape == (channels, 3) and bias.shape == (3,) and np.isfinite(matrix).all() and np.isfinite(bias).all()
    )
    return LinearPreview(matrix, bias) if fits else None


def fit_to_encoder(encode: Callable[[Floats], Floats], factor: int, checkpoint: Callable[[], None]) -> LinearPreview:
    """Fit to a model's own encoder, using synthetic pictures, one at a time.

    :param encode: maps a picture (3, side, side) in -1 … 1 to its raw latent (C, side / factor, side / factor).
    :raises JobCancelled: between two pictures.
    :raises EngineError: InvalidOutput if the encoder computes numbers that are not finite.
    """
    pictures = synthetic_pictures(_PICTURES, _LATENT_SIDE * factor)
    latents: list[Floats] = []
    for picture in pictures:
        checkpoint()
        latents.append(encode(picture))
        if not np.isfinite(latents[-1]).all():
            raise EngineError("InvalidOutput", "The model's autoencoder computes numbers that are not finite.")
    fitted = fit(np.stack(latents), pictures)
    _logger.info("linear preview fitted; root mean square residual %.3f of a range of 2", fitted.residual)
    return fitted


def fit(latents: Floats, pictures: Floats) -> LinearPreview:
    """Fit raw latents (N, C, h, w) to the mean colour of the pixels that each latent pixel covers (least squares).

    :param pictures: (N, 3, h * k, w * k) in -1 … 1, from which the latents were encoded.
    """
    count, channels, height, width = latents.shape
    factor = pictures.shape[2] // height
    colours = pictures.reshape(count, 3, height, factor, width, factor).mean(axis=(3, 5))
    x = latents.transpose(0, 2, 3, 1).reshape(-1, channels).astype(np.float64)
    y = colours.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    solution = cast("NDArray[np.float64]", np.linalg.lstsq(x, y, rcond=1e-6)[0])
    error = cast("NDArray[np.float64]", x @ solution - y)
    residual = float(np.sqrt(np.mean(error**2)))
    return LinearPreview(solution[:-1].astype(np.float32), solution[-1].astype(np.float32), residual)


def synthetic_pictures(count: int, side: int, seed: int = 0) -> Floats:
    """Make pictures to fit on, (count, 3, side, side) in -1 … 1: gradients, then colour patches, then soft noise."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0.0, 1.0, side)
    pictures = np.empty((count, 3, side, side), dtype=np.float32)
    for picture in pictures:
        start, across, down = (colour[:, None, None] for colour in rng.uniform(-1, 1, (3, 3)))
        picture[:] = start + (across - start) * ramp[None, None, :] + (down - start) * ramp[None, :, None]
        for _ in range(int(rng.integers(4, 10))):
            size = rng.integers(side // 8, side // 2, 2)
            top, left = rng.integers(0, side - size)
            picture[:, top : top + size[0], left : left + size[1]] = rng.uniform(-1, 1, 3)[:, None, None]
        picture += _soft_noise(rng, side) * rng.uniform(0.0, 0.6)
    return pictures.clip(-1, 1)


def _soft_noise(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Make noise on a coarse grid and interpolate it to (3, side, side)."""
    grid = 8
    coarse = rng.uniform(-1, 1, (3, grid, grid))
    at = np.linspace(0, grid - 1, side)
    low = np.minimum(at.astype(int), grid - 2)
    part = at - low
    rows = coarse[:, low] * (1 - part)[None, :, None] + coarse[:, low + 1] * part[None, :, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
