"""The fake engine's pictures: a landscape with a sun, drawn from a hash of the request."""

from __future__ import annotations

import colorsys
import hashlib
import math
import random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.source import Source

_LATENT = 8  # pixels of the image per pixel of a latent, as in the real models


def landscape(prompt: str, negative_prompt: str, seed: int, width: int, height: int) -> Image.Image:
    """Draw an RGB picture of that size. The same arguments give the same pixels."""
    key = "\0".join((prompt, negative_prompt, str(seed), f"{width}x{height}"))
    draw_from = random.Random(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    hue = draw_from.random()
    sky_top, sky_bottom = _colour(hue, 0.65, 0.55), _colour(hue + 0.12, 0.35, 0.98)
    blend = Image.linear_gradient("L").resize((width, height))
    picture = Image.composite(
        Image.new("RGB", (width, height), sky_bottom), Image.new("RGB", (width, height), sky_top), blend
    )
    draw = ImageDraw.Draw(picture)
    radius = min(width, height) * draw_from.uniform(0.08, 0.16)
    x, y = width * draw_from.uniform(0.2, 0.8), height * draw_from.uniform(0.15, 0.4)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(hue + 0.5, 0.25, 1.0))
    for layer in range(4):
        _hills(draw, draw_from, (width, height), layer, _colour(hue + 0.3 + 0.05 * layer, 0.5, 0.7 - 0.15 * layer))
    return picture


def edited(source: Source, picture: Image.Image) -> Image.Image:
    """Blend ``picture`` into ``source`` with its strength as opacity, where the mask allows."""
    from locara_sidecar.engine.drawing.source import composite

    strength = 0.5 if source.strength is None else source.strength
    return composite(source, Image.blend(_side_by_side(source), picture, strength))


def _side_by_side(source: Source) -> Image.Image:
    """Return the source or, of several references, a vertical band of each, in order from the left."""
    band = source.image.copy()
    for number, reference in enumerate(source.references[1:], start=1):
        left, right = (band.width * edge // len(source.references) for edge in (number, number + 1))
        band.paste(reference.resize(band.size).crop((left, 0, right, band.height)), (left, 0))
    return band


def predicted(thumbnail: Image.Image, step: int, steps: int) -> Image.Image:
    """Return what a sampler would predict for ``thumbnail`` after ``step`` of ``steps``: blurred, sharp at the end."""
    left = (steps - step) / steps
    radius = max(thumbnail.size) * 0.25 * left * left
    return thumbnail.filter(ImageFilter.GaussianBlur(radius)) if radius > 0 else thumbnail


def latent_size(picture: Image.Image) -> Image.Image:
    """Scale ``picture`` down to the size of its latent."""
    size = (max(1, picture.width // _LATENT), max(1, picture.height // _LATENT))
    return picture.resize(size, Image.Resampling.BOX)


def _hills(
    draw: ImageDraw.ImageDraw, draw_from: random.Random, size: tuple[int, int], layer: int, fill: tuple[int, int, int]
) -> None:
    width, height = size
    base = height * (0.5 + 0.12 * layer)
    waves = [(draw_from.uniform(0.6, 3.0), draw_from.uniform(0, math.tau), height * 0.05) for _ in range(3)]
    ridge = [
        (x, base + sum(a * math.sin(math.tau * f * x / width + p) for f, p, a in waves))
        for x in range(0, width + 8, max(1, width // 128))
    ]
    draw.polygon([(0, height), *ridge, (width + 8, height)], fill=fill)


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)
