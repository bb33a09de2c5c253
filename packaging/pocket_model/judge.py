"""Measures what a picture shows, from its pixels and the training pictures, without any trained part.

The ground is the most frequent colour of the border. A thing is recognised by the nearest of all training pictures,
each put on the same ground that was found, so that only the things are compared. Coloured shapes are read by
``shape_judge``, at half the size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocket_model import shape_judge
from pocket_model.drawings import SHAPES, SIDE
from pocket_model.scenes import nearest_name
from pocket_model.things import STYLES

BORDER = 4
DIFFERENT = 45.0
"""Distance in RGB from the ground from which a pixel belongs to a thing."""
LEAST_SHARE = 0.004
"""If a smaller share of pixels differs from the ground, a picture is blank. The thinnest thing has three times this."""
_COARSE, _FINE = 32, 64


@dataclass(frozen=True)
class Seen:
    """What a picture shows.

    ``thing``, ``nearest_style``: of the nearest training picture; ``style``: the nearest of that thing's styles when
    looked at closely. ``distance``: root mean square in 0…255 to the nearest training picture.
    """

    ground: tuple[float, float, float]
    blank: bool
    thing: int
    style: str
    distance: float

    @property
    def ground_name(self) -> str:
        return nearest_name(self.ground)


def reduced(pictures: np.ndarray, side: int) -> np.ndarray:
    """[..., h, w, c] to [..., side, side, c] float32, by averaging."""
    *lead, h, _w, c = pictures.shape
    step = h // side
    return pictures.astype(np.float32).reshape(*lead, side, step, side, step, c).mean((-4, -2))


def ground_of(picture: np.ndarray) -> tuple[float, float, float]:
    """The ground's colour of a picture [128, 128, 3] in 0…255: the median of the border's most frequent kind."""
    pixels, b = picture.astype(np.float32), BORDER
    sides = (pixels[:b], pixels[-b:], pixels[b:-b, :b], pixels[b:-b, -b:])
    border = np.concatenate([s.reshape(-1, 3) for s in sides])
    kinds = (border // 32).astype(int) @ np.asarray([64, 8, 1])
    common = np.median(border[kinds == np.bincount(kinds).argmax()], 0)
    near = border[np.abs(border - common).max(1) < 24]  # a ground at the edge of a kind is in two of them
    red, green, blue = np.median(near if len(near) else border, 0).tolist()
    return (red, green, blue)


class Judge:
    """Recognises things. :param pictures: [styles, things, 128, 128, 4] uint8."""

    def __init__(self, pictures: np.ndarray) -> None:
        self._coarse = [_opaque(pictures[s], _COARSE) for s in range(len(pictures))]
        self._pictures = pictures

    def look(self, picture: np.ndarray) -> Seen:
        """Judges a [128, 128, 3] uint8 picture."""
        ground = ground_of(picture)
        plain = np.asarray(ground, np.float32)
        different = np.linalg.norm(picture.astype(np.float32) - plain, axis=2) > DIFFERENT
        small = reduced(picture, _COARSE)
        errors = np.stack([self._errors(small, plain, s) for s in range(len(self._coarse))])
        thing = int(errors.min(0).argmin())
        style = self.style_of(picture, thing, ground)
        return Seen(ground, bool(different.mean() < LEAST_SHARE), thing, style, float(np.sqrt(errors.min())))

    def _errors(self, small: np.ndarray, ground: np.ndarray, style: int) -> np.ndarray:
        colour, opacity = self._coarse[style]
        return ((colour + (1 - opacity) * ground - small) ** 2).mean((1, 2, 3))

    def style_of(self, picture: np.ndarray, thing: int, ground: tuple[float, float, float]) -> str:
        """Which of a thing's styles a picture is nearest to."""
        colour, opacity = _opaque(self._pictures[:, thing], _FINE)
        errors = (colour + (1 - opacity) * np.asarray(ground, np.float32) - reduced(picture, _FINE)) ** 2
        return STYLES[int(errors.mean((1, 2, 3)).argmin())]


def _opaque(pictures: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours times opacity [n, side, side, 3], and opacity [n, side, side, 1] in 0…1."""
    opacity = pictures[..., 3:].astype(np.float32) / 255
    return reduced(pictures[..., :3] * opacity, side), reduced(opacity, side)


@dataclass(frozen=True)
class SeenShape:
    """A coloured shape, by the names of ``pocket_model.drawings``."""

    shape: str
    colour: str
    cell: str
    ground: str
    alone: bool


def look(picture: np.ndarray) -> shape_judge.Seen:
    """All coloured shapes in a [128, 128, 3] uint8 picture."""
    return shape_judge.look(np.rint(reduced(picture, SIDE)).astype(np.uint8))


def look_shape(picture: np.ndarray) -> SeenShape | None:
    """The largest coloured shape in a [128, 128, 3] uint8 picture; None if it is blank."""
    seen = look(picture)
    if not seen.things:
        return None
    first = seen.things[0]
    assert first.shape in SHAPES
    return SeenShape(first.shape, first.colour, first.cell, seen.background, len(seen.things) == 1)
