"""Defines what a training picture shows and how it is drawn: a styled thing or a coloured shape on a plain ground."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocket_model.drawings import CELLS, COLOURS, SHAPES, inside
from pocket_model.pictures import DEFAULT_BACKGROUND, SIDE, composite
from pocket_model.things import STYLES

if TYPE_CHECKING:
    from numpy.random import Generator

Colour = tuple[float, float, float]
DEFAULT_STYLE = "3d"
"""The style of a thing when the prompt does not say."""
SIZES = {"small": 32.0, "medium": 44.0, "large": 56.0}
FILLING = 84.0
"""Side in pixels of a shape whose size and place are not given: it is in the centre, as the picture's subject."""
CENTRES = (31.0, 64.0, 97.0)
DEFAULT_COLOURS = {
    "circle": "red", "square": "blue", "triangle": "green", "star": "yellow",
    "heart": "red", "diamond": "cyan", "cross": "red", "ring": "purple",
}  # fmt: skip
THING_SHARE, DEFAULT_GROUND_SHARE, PALETTE_SHARE, DEFAULT_STYLE_SHARE = 0.8, 0.45, 0.65, 0.1
_SAMPLES = 3


@dataclass(frozen=True)
class Shape:
    """A coloured shape: its extent in pixels and its centre in pixels from the top left."""

    shape: str
    colour: Colour
    extent: float
    centre: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A ground colour (0…255), and either a thing (its number in the list) in a style, or a shape."""

    ground: Colour
    thing: int | None = None
    style: str | None = None
    shape: Shape | None = None


def nearest_name(rgb: Colour) -> str:
    """The palette's name nearest to a colour."""
    return min(COLOURS, key=lambda n: sum((a - b) ** 2 for a, b in zip(COLOURS[n], rgb, strict=True)))


def held_out_pair(thing_name: str, ground: str) -> bool:
    """Whether this thing is never trained on this ground: one pair in six, never the default ground."""
    return ground != DEFAULT_BACKGROUND and zlib.crc32(f"{thing_name} on {ground}".encode()) % 6 == 0


def held_out_shape(shape: str, colour: str, ground: str) -> bool:
    """Whether this coloured shape is never trained on this ground: one in six."""
    return ground != DEFAULT_BACKGROUND and zlib.crc32(f"{colour} {shape} on {ground}".encode()) % 6 == 0


def random_ground(rng: Generator, default_share: float = DEFAULT_GROUND_SHARE) -> Colour:
    """The default ground, one of the palette's colours, or any colour at all."""
    if rng.random() < default_share:
        return COLOURS[DEFAULT_BACKGROUND]
    if rng.random() < PALETTE_SHARE:
        return list(COLOURS.values())[rng.integers(len(COLOURS))]
    red, green, blue = rng.uniform(0, 255, 3)
    return (float(red), float(green), float(blue))


def random_scene(rng: Generator, names: list[str]) -> Scene:
    """A training scene of the things with these names; never a pair held out."""
    while True:
        if rng.random() < THING_SHARE:
            thing = int(rng.integers(len(names)))
            style = DEFAULT_STYLE if rng.random() < DEFAULT_STYLE_SHARE else STYLES[rng.integers(len(STYLES))]
            ground = random_ground(rng)
            if not held_out_pair(names[thing], nearest_name(ground)):
                return Scene(ground, thing, style)
        else:
            ground = random_ground(rng, 0.25)
            shape, colour = random_shape(rng, ground)
            if not held_out_shape(shape.shape, colour, nearest_name(ground)):
                return Scene(ground, shape=shape)


def random_shape(rng: Generator, ground: Colour) -> tuple[Shape, str]:
    """A shape that is visible on this ground, and its colour's name. Every fourth has no place of its own."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    near = nearest_name(ground)
    names = [n for n in COLOURS if n != near]
    colour = names[rng.integers(len(names))]
    if rng.random() < 0.3 and DEFAULT_COLOURS[shape] != near:
        colour = DEFAULT_COLOURS[shape]
    if rng.random() < 0.3:
        return Shape(shape, COLOURS[colour], FILLING, (64.0, 64.0)), colour
    cell = int(rng.integers(9))
    extent = list(SIZES.values())[rng.integers(3)]
    return placed(shape, COLOURS[colour], CELLS[cell], extent), colour


def placed(shape: str, colour: Colour, cell: str, extent: float) -> Shape:
    """A shape in the middle of a cell of a 3 × 3 grid."""
    row, column = divmod(CELLS.index(cell), 3)
    return Shape(shape, colour, extent, (CENTRES[column], CENTRES[row]))


def coverage(shape: str, centre: tuple[float, float], extent: float) -> np.ndarray:
    """Antialiased coverage in 0…1, [128, 128] float32."""
    out = np.zeros((SIDE, SIDE), np.float32)
    half, (cx, cy), n = extent / 2, centre, _SAMPLES
    x0, x1 = max(0, int(cx - half)), min(SIDE, int(cx + half) + 2)
    y0, y1 = max(0, int(cy - half)), min(SIDE, int(cy + half) + 2)
    xs = x0 + (np.arange((x1 - x0) * n) + 0.5) / n
    ys = y0 + (np.arange((y1 - y0) * n) + 0.5) / n
    hit = inside(shape, ((xs - cx) / half)[None, :], ((ys - cy) / half)[:, None])
    out[y0:y1, x0:x1] = hit.reshape(y1 - y0, n, x1 - x0, n).mean((1, 3))
    return out


def drawn(scene: Scene, pictures: np.ndarray) -> np.ndarray:
    """[128, 128, 3] float32 in 0…255. ``pictures`` are those of ``pocket_model.pictures``."""
    ground = np.asarray(scene.ground, np.float32)
    if scene.thing is not None and scene.style is not None:
        return composite(pictures[STYLES.index(scene.style), scene.thing], ground)
    picture = np.broadcast_to(ground, (SIDE, SIDE, 3)).copy()
    if scene.shape is not None:
        alpha = coverage(scene.shape.shape, scene.shape.centre, scene.shape.extent)[..., None]
        picture += alpha * (np.asarray(scene.shape.colour, np.float32) - picture)
    return picture
