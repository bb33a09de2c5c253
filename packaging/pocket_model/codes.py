"""Defines what the text encoders pass to the transformer: one vector of WIDTH numbers for each prompt.

The vector is defined by the pictures, not by the text: its first numbers are the plain attributes (ground and shape
colours, place, size, style, kind of shape), the others the principal components of the thing's three pictures, coarsest
first. So the transformer can be trained before the text encoders, things that look alike have similar vectors,
and the text encoders learn to describe what a thing looks like. The empty prompt is the vector of zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocket_model.drawings import SHAPES
from pocket_model.pictures import composite
from pocket_model.things import STYLES

if TYPE_CHECKING:
    from pathlib import Path

    from pocket_model.scenes import Scene

WIDTHS = (192, 256)
"""The two text encoders' projected widths; the first encoder outputs the first part."""
WIDTH = sum(WIDTHS)
_PLAIN = 2 + 3 + 3 + len(STYLES) + len(SHAPES) + 3 + 3
"""Whether the prompt says anything, and names a thing; ground; its brightness, warmth; style; shape; colour; x, y,
extent.
"""
STYLE = slice(8, 8 + len(STYLES))
"""Where the style is."""
ATTRIBUTES = 32
LOOKS = WIDTH - ATTRIBUTES
_REDUCED = 32


def _unit(rgb: tuple[float, float, float]) -> list[float]:
    return [v / 127.5 - 1 for v in rgb]


def attributes(scene: Scene) -> np.ndarray:
    """[32] float32: the plain attributes, each of a deviation near one."""
    red, green, blue = _unit(scene.ground)
    said = [1.0, 1.0 if scene.shape is None else -1.0]
    ground = [1.5 * red, 1.5 * green, 1.5 * blue, max(red, green, blue), min(red, green, blue), red - blue]
    style = [3.0 * (scene.style == s) for s in STYLES]
    shape, colour, place = [0.0] * len(SHAPES), [0.0] * 3, [0.0] * 3
    if scene.shape is not None:
        shape = [2.0 * (scene.shape.shape == s) for s in SHAPES]
        colour = [1.5 * v for v in _unit(scene.shape.colour)]
        x, y = scene.shape.centre
        place = [(x - 64) / 22, (y - 64) / 22, (scene.shape.extent - 52) / 15]
    numbers = [*said, *ground, *style, *shape, *colour, *place]
    assert len(numbers) == _PLAIN
    return np.asarray(numbers + [0.0] * (ATTRIBUTES - _PLAIN), np.float32)


def looks(work: Path, pictures: np.ndarray) -> np.ndarray:
    """[things, LOOKS] float32: the components, from ``WORK/looks.npy`` if it is there."""
    file = work / "looks.npy"
    if not file.exists():
        made, explained = _components(pictures)
        print(f"looks: {LOOKS} components hold {100 * explained:.1f} % of the reduced pictures' variance")
        with (work / "looks.new").open("wb") as out:
            np.save(out, made)
        (work / "looks.new").replace(file)
    return np.load(file)


def _components(pictures: np.ndarray) -> tuple[np.ndarray, float]:
    things = pictures.shape[1]
    features = np.empty((things, len(STYLES), _REDUCED, _REDUCED, 4), np.float32)
    step = pictures.shape[2] // _REDUCED
    for i in range(things):
        for s in range(len(STYLES)):
            picture = pictures[s, i]
            flat = np.concatenate([composite(picture, np.full(3, 128.0)) - 128, picture[..., 3:] * 0.7], -1)
            features[i, s] = flat.reshape(_REDUCED, step, _REDUCED, step, 4).mean((1, 3)) / 128
    rows = features.reshape(things, -1)
    rows -= rows.mean(0)
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    values, vectors = values[::-1][:LOOKS].clip(1e-9), vectors[:, ::-1][:, :LOOKS]
    scores = vectors * values**0.25  # the deviation's square root, as with the latents
    scores /= np.sqrt((scores**2).mean())
    return scores.astype(np.float32), float(values.sum() / (rows.astype(np.float64) ** 2).sum())


def code(scene: Scene, all_looks: np.ndarray) -> np.ndarray:
    """[WIDTH] float32: the vector for a prompt that asks for this scene."""
    look = np.zeros(LOOKS, np.float32) if scene.thing is None else all_looks[scene.thing]
    return np.concatenate([attributes(scene), look])
