"""Defines the words that captions are made of, and what a caption says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocket_model.drawings import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from pocket_model.scenes import Scene

COLOUR_WORDS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    **{name: (rgb, (name,)) for name, rgb in COLOURS.items()},
    "gray": (COLOURS["gray"], ("gray", "grey")),
    "cyan": (COLOURS["cyan"], ("cyan", "turquoise")),
    "purple": (COLOURS["purple"], ("purple", "violet")),
    "light blue": ((160, 205, 250), ("light blue", "sky blue", "pale blue", "pastel blue")),
    "dark blue": ((20, 35, 110), ("dark blue", "navy", "navy blue", "midnight blue")),
    "light green": ((165, 230, 160), ("light green", "mint", "pale green", "pastel green", "mint green")),
    "dark green": ((15, 80, 40), ("dark green", "forest green")),
    "lime": ((160, 220, 40), ("lime", "lime green")),
    "olive": ((120, 120, 40), ("olive", "olive green")),
    "teal": ((15, 125, 125), ("teal", "dark cyan")),
    "light pink": ((252, 210, 225), ("light pink", "pale pink", "pastel pink")),
    "hot pink": ((240, 60, 150), ("hot pink", "magenta", "fuchsia")),
    "lavender": ((205, 185, 245), ("lavender", "lilac", "light purple", "pastel purple")),
    "maroon": ((120, 20, 35), ("maroon", "dark red", "burgundy")),
    "light yellow": ((253, 243, 170), ("light yellow", "pale yellow", "cream", "pastel yellow")),
    "gold": ((215, 170, 50), ("gold", "golden", "mustard")),
    "beige": ((235, 220, 190), ("beige", "sand", "tan")),
    "peach": ((252, 200, 165), ("peach", "light orange", "salmon")),
    "light gray": ((210, 210, 212), ("light gray", "light grey", "silver")),
    "dark gray": ((70, 70, 74), ("dark gray", "dark grey", "charcoal")),
}
"""Each ground's colour and its names; the palette's own first."""
STYLE_WORDS = {
    "noto": ("cartoon", "cartoon style", "in cartoon style", "as a cartoon", "cartoonish", "emoji style",
        "as an emoji", "drawn as a cartoon"),
    "flat": ("flat", "flat style", "in flat style", "flat design", "flat icon", "in a flat style", "2d",
        "flat vector", "minimal flat"),
    "3d": ("3d", "in 3d style", "3d style", "3d render", "in 3d", "rendered in 3d", "glossy 3d", "3d model",
        "as a 3d render"),
}  # fmt: skip
STYLES_BEFORE = {"noto": ("cartoon",), "flat": ("flat", "2d"), "3d": ("3d", "3d rendered")}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
SPOTS = {
    "top left": ("top left", "upper left"), "top": ("top", "top center"), "top right": ("top right", "upper right"),
    "left": ("left", "left side"), "center": ("center", "middle", "centre"), "right": ("right", "right side"),
    "bottom left": ("bottom left", "lower left"), "bottom": ("bottom", "bottom center"),
        "bottom right": ("bottom right", "lower right"),
}  # fmt: skip
GROUNDS = (
    "on a {} background", "on a {} background", "on a {} background", "on {}", "on {}", "against a {} background",
        "{} background",
    "with a {} background", "over a {} background", "against {}", "on a {} backdrop", "in front of a {} background",
        "background {}", "the background is {}",
)  # fmt: skip
OPENINGS = (
    "a picture of", "an image of", "draw", "please draw", "show me", "i want", "a drawing of", "an icon of", "make",
        "paint", "clip art of",
    "an illustration of", "illustration of", "generate", "create", "can you draw", "a photo of", "photo of", "just",
        "draw me", "give me", "there is", "icon of",
)  # fmt: skip
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "disk", "dot"), "square": ("square",), "triangle": ("triangle",),
    "star": ("star",), "heart": ("heart",), "diamond": ("diamond", "diamond", "rhombus"),
    "cross": ("cross", "plus sign"), "ring": ("ring", "hollow circle"),
}  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """The text, the scene that it means with everything unsaid filled in, and what it says of style and ground."""

    text: str
    scene: Scene | None
    things: tuple[int, ...] = ()
    """The numbers of the things that count as right answers."""
    says_style: bool = False
    says_ground: bool = False


NOTHING = Caption("", None)


def pick(rng: Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def join(rng: Generator, part: str) -> str:
    return f", {part}" if rng.random() < 0.35 else part


def tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").strip(" ,")
    return re.sub(r"\ba (?=[aeio])", "an ", text)
