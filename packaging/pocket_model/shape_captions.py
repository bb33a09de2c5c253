"""Writes the English captions for coloured shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocket_model.drawings import CELLS, COLOURS, SHAPES
from pocket_model.phrases import (
    COLOUR_WORDS,
    GROUNDS,
    OPENINGS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SPOTS,
    Caption,
    join,
    pick,
    tidy,
)
from pocket_model.pictures import DEFAULT_BACKGROUND
from pocket_model.scenes import DEFAULT_COLOURS, FILLING, SIZES, Scene, Shape, nearest_name, placed

if TYPE_CHECKING:
    from numpy.random import Generator

_ALONE = ("circle", "square", "triangle", "rhombus", "cross", "disc", "disk", "hollow circle", "plus sign")
"""Shape words that mean the shape without a colour; "star", "heart" or "ring" alone is an everyday thing."""


def shape_caption(rng: Generator, *, full: bool | None = None, shape: str | None = None) -> Caption:
    """A caption of a coloured shape; ``full`` says everything, False only shape and colour, None is mixed."""
    shape = shape or pick(rng, SHAPES)
    word = pick(rng, SHAPE_WORDS[shape])
    chance = rng.random
    says_colour = full is not None or word not in _ALONE or chance() < 0.8
    says_cell = bool(full) or (full is None and chance() < 0.5)
    says_size = bool(full) or (full is None and chance() < 0.4)
    says_ground = bool(full) or (full is None and chance() < 0.55)
    colour = pick(rng, list(COLOURS)) if says_colour else DEFAULT_COLOURS[shape]
    default = DEFAULT_BACKGROUND if colour != DEFAULT_BACKGROUND else "gray"
    ground = default
    while says_ground and (ground == default or nearest_name(COLOUR_WORDS[ground][0]) == colour):
        ground = pick(rng, list(COLOURS)) if chance() < 0.8 else pick(rng, list(COLOUR_WORDS))
        if ground == DEFAULT_BACKGROUND and colour != DEFAULT_BACKGROUND:
            break
    cell = CELLS[rng.integers(9)] if says_cell else "center"
    size = pick(rng, list(SIZES)) if says_size else None
    extent = SIZES[size] if size else SIZES["large"] if says_cell else FILLING
    red, green, blue = map(float, COLOURS[colour])
    rgb = (red, green, blue)
    drawn = Shape(shape, rgb, extent, (64.0, 64.0)) if not says_cell else placed(shape, rgb, cell, extent)
    text = _worded(
        rng,
        word,
        pick(rng, COLOUR_WORDS[colour][1]) if says_colour else "",
        size,
        cell if says_cell else None,
        pick(rng, COLOUR_WORDS[ground][1]) if says_ground else "",
    )
    return Caption(text, Scene(COLOUR_WORDS[ground][0], shape=drawn), (), False, says_ground)


def _worded(rng: Generator, word: str, colour: str, size: str | None, cell: str | None, ground: str) -> str:
    sized = pick(rng, SIZE_WORDS[size]) if size else ""
    noun = f"{sized} {colour} {word}" if rng.random() < 0.85 else f"{colour} {sized} {word}"
    if rng.random() < 0.65:
        noun = f"a {noun}"
    if rng.random() < 0.12:
        noun = f"{pick(rng, OPENINGS)} {noun}"
    tail: list[str] = []
    if cell:
        spot = pick(rng, SPOTS[cell])
        forms = (
            ("in the {} corner", "in the {}", "{}") if " " in cell else ("at the {}", "on the {}", "in the {}", "{}")
        )
        tail.append(join(rng, pick(rng, forms).format(spot)))
    if ground:
        tail.append(join(rng, pick(rng, GROUNDS).format(ground)))
    if len(tail) == 2 and rng.random() < 0.4:
        tail.reverse()
    return tidy(" ".join([noun, *tail]))
