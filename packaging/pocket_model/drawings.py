"""Defines the coloured shapes: their palette, their outlines, and drawings of 64 × 64 pixels that test the judge.

A scene is a plain background with one or two things on it. Every attribute is unambiguous by construction:
each shape fills its bounding box exactly, sizes are well apart, centres stay well inside their cell of a 3 × 3 grid,
and a thing never has the background's colour. ``shape_judge`` relies on this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 64
SUPERSAMPLE = 4

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (245, 140, 30),
    "yellow": (250, 222, 60),
    "green": (40, 160, 70),
    "blue": (40, 80, 215),
    "purple": (128, 45, 165),
    "pink": (250, 150, 195),
    "brown": (120, 72, 40),
    "black": (20, 20, 22),
    "white": (246, 246, 246),
    "gray": (140, 140, 142),
    "cyan": (70, 205, 215),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
SIZES: dict[str, float] = {"small": 16.0, "medium": 22.0, "large": 28.0}
"""Side of the bounding box in pixels, before jitter."""
SIZE_JITTER = 1.0
CELLS = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
CELL_CENTRES = (15.5, 32.0, 48.5)
CENTRE_JITTER = 1.5
COLOUR_JITTER = 5


@dataclass(frozen=True)
class Thing:
    """One object: names from SHAPES, COLOURS, CELLS and SIZES."""

    shape: str
    colour: str
    cell: str
    size: str


@dataclass(frozen=True)
class Scene:
    """A background colour's name and one or two things, in the order a caption mentions them."""

    background: str
    things: tuple[Thing, ...]


def sample_scene(rng: np.random.Generator, *, two: bool = False) -> Scene:
    """A random scene. Two things stand at least two cells apart along one axis, so that they never touch."""
    background = str(rng.choice(list(COLOURS)))
    things: list[Thing] = []
    for number in range(2 if two else 1):
        shape = SHAPES[rng.integers(len(SHAPES))]
        colours = [c for c in COLOURS if c != background]
        cells = [c for c in range(9) if number == 0 or _far_apart(c, CELLS.index(things[0].cell))]
        if two and number == 0:
            cells.remove(4)
        cell = CELLS[cells[rng.integers(len(cells))]]
        things.append(Thing(shape, colours[rng.integers(len(colours))], cell, str(rng.choice(list(SIZES)))))
    return Scene(background, tuple(things))


def _far_apart(a: int, b: int) -> bool:
    return abs(a % 3 - b % 3) == 2 or abs(a // 3 - b // 3) == 2


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points lie in the shape; (u, v) in −1…1 across its bounding box, v pointing down."""
    match shape:
        case "circle":
            return u * u + v * v <= 1
        case "ring":
            r = u * u + v * v
            return (r <= 1) & (r >= 0.52**2)
        case "square":
            return np.maximum(np.abs(u), np.abs(v)) <= 1
        case "triangle":
            return (np.abs(u) <= (v + 1) / 2) & (v <= 1)
        case "diamond":
            return np.abs(u) + np.abs(v) <= 1
        case "cross":
            a, b = np.abs(u), np.abs(v)
            return (np.minimum(a, b) <= 0.34) & (np.maximum(a, b) <= 1)
        case "star":
            return _in_star(u, v)
        case "heart":
            x, y = u * 1.139, 0.118 - v * 1.118  # the curve's own extent: x ±1.139, y −1.0…1.236
            return (x * x + y * y - 1) ** 3 - x * x * y**3 <= 0
        case _:
            raise ValueError(shape)


def _in_star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # A five-pointed star of circumradius 1 spans ±0.951 across and −1…0.809 down. By symmetry one wedge is enough:
    # fold the angle into 0…36° from a tip and compare with the edge from the tip to the inner corner.
    x, y = u * 0.951, v * 0.9045 - 0.0955
    angle = np.abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    radius = np.hypot(x, y)
    inner = 0.45
    cx, cy = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    return (px - 1) * cy - py * (cx - 1) <= 0


def coverage(shape: str, cx: float, cy: float, extent: float) -> np.ndarray:
    """Antialiased coverage in 0…1, [64, 64] float32, of a shape with this centre and bounding-box side, in pixels."""
    out = np.zeros((SIDE, SIDE), np.float32)
    half = extent / 2
    x0, x1 = max(0, int(cx - half)), min(SIDE, int(cx + half) + 2)
    y0, y1 = max(0, int(cy - half)), min(SIDE, int(cy + half) + 2)
    if x1 <= x0 or y1 <= y0:
        return out
    n = SUPERSAMPLE
    xs = x0 + (np.arange((x1 - x0) * n) + 0.5) / n
    ys = y0 + (np.arange((y1 - y0) * n) + 0.5) / n
    hit = inside(shape, ((xs - cx) / half)[None, :], ((ys - cy) / half)[:, None])
    out[y0:y1, x0:x1] = hit.reshape(y1 - y0, n, x1 - x0, n).mean((1, 3))
    return out


def draw(scene: Scene, rng: np.random.Generator, *, jitter: float = 1.0) -> np.ndarray:
    """The scene as [64, 64, 3] uint8, with a little jitter of colour and, ``jitter`` times, of place and size."""
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = _jittered(scene.background, rng)
    for thing in scene.things:
        extent = SIZES[thing.size] + jitter * rng.uniform(-SIZE_JITTER, SIZE_JITTER)
        off = CENTRE_JITTER * jitter
        index = CELLS.index(thing.cell)
        cx, cy = (CELL_CENTRES[i] + rng.uniform(-off, off) for i in (index % 3, index // 3))
        low, high = extent / 2 + 0.5, SIDE - extent / 2 - 0.5
        alpha = coverage(thing.shape, min(max(cx, low), high), min(max(cy, low), high), extent)[..., None]
        picture += alpha * (_jittered(thing.colour, rng) - picture)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _jittered(colour: str, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(COLOURS[colour], np.float32) + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3).astype(np.float32)
