"""Owns the English: how a scene is asked for. Mostly short and vague, as people type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocket2.pictures import DEFAULT_BACKGROUND
from pocket2.scenes import (
    DEFAULT_COLOURS,
    DEFAULT_STYLE,
    FILLING,
    SIZES,
    Scene,
    Shape,
    held_out_pair,
    held_out_shape,
    nearest_name,
    placed,
)
from pocket2.things import STYLES, Thing
from pocket2.words import ALIASES, meanings, plain
from pocket_model.drawings import CELLS, COLOURS, SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.random import Generator

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
"""Each ground's colour and what it is called; the palette's own first."""
STYLE_WORDS = {
    "noto": ("cartoon", "cartoon style", "in cartoon style", "as a cartoon", "cartoonish", "emoji style",
        "as an emoji", "drawn as a cartoon"),
    "flat": ("flat", "flat style", "in flat style", "flat design", "flat icon", "in a flat style", "2d",
        "flat vector", "minimal flat"),
    "3d": ("3d", "in 3d style", "3d style", "3d render", "in 3d", "rendered in 3d", "glossy 3d", "3d model",
        "as a 3d render"),
}  # fmt: skip
_STYLES_BEFORE = {"noto": ("cartoon",), "flat": ("flat", "2d"), "3d": ("3d", "3d rendered")}
SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "disk", "dot"), "square": ("square",), "triangle": ("triangle",),
    "star": ("star",), "heart": ("heart",), "diamond": ("diamond", "diamond", "rhombus"),
    "cross": ("cross", "plus sign"), "ring": ("ring", "hollow circle"),
}  # fmt: skip
_ALONE = ("circle", "square", "triangle", "rhombus", "cross", "disc", "disk", "hollow circle", "plus sign")
"""Shape words that mean the shape without a colour; "star", "heart" or "ring" alone is an everyday thing."""
_SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
_SPOTS = {
    "top left": ("top left", "upper left"), "top": ("top", "top center"), "top right": ("top right", "upper right"),
    "left": ("left", "left side"), "center": ("center", "middle", "centre"), "right": ("right", "right side"),
    "bottom left": ("bottom left", "lower left"), "bottom": ("bottom", "bottom center"),
        "bottom right": ("bottom right", "lower right"),
}  # fmt: skip
_GROUNDS = (
    "on a {} background", "on a {} background", "on a {} background", "on {}", "on {}", "against a {} background",
        "{} background",
    "with a {} background", "over a {} background", "against {}", "on a {} backdrop", "in front of a {} background",
        "background {}", "the background is {}",
)  # fmt: skip
_OPENINGS = (
    "a picture of", "an image of", "draw", "please draw", "show me", "i want", "a drawing of", "an icon of", "make",
        "paint", "clip art of",
    "an illustration of", "illustration of", "generate", "create", "can you draw", "a photo of", "photo of", "just",
        "draw me", "give me", "there is", "icon of",
)  # fmt: skip
_ADJECTIVES = (
    "cute", "cute", "cute", "little", "big", "small", "happy", "beautiful", "simple", "nice", "pretty", "funny",
        "lovely", "cool", "adorable", "tiny", "large",
    "colorful", "shiny", "single", "friendly", "realistic", "old", "new", "fresh", "delicious", "magic",
        "wonderful", "huge", "modern", "fancy",
)  # fmt: skip
_ENDINGS = (
    "please", "minimal", "vector art", "high quality", "thanks", "clip art", "digital art", "4k", "highly detailed",
        "clean lines", "no text",
    "for my website", "nothing else", "masterpiece", "centered", "in the center", "icon", "sticker", "logo",
        "isolated", "best quality", "detailed", "trending on artstation",
)  # fmt: skip
_FORMS = ("slice of", "piece of", "bowl of", "pair of", "bunch of", "group of", "kind of")


@dataclass(frozen=True)
class Caption:
    """The text, the scene that it means with everything unsaid filled in, and what it says of style and ground."""

    text: str
    scene: Scene | None
    things: tuple[int, ...] = ()
    """The numbers of the things that are a right answer."""
    says_style: bool = False
    says_ground: bool = False


NOTHING = Caption("", None)


class Writer:
    """Captions for the list of things."""

    def __init__(self, work: Path, things: list[Thing]) -> None:
        self.things = things
        self.meanings = meanings(work, things)
        self.phrases: list[list[str]] = [[] for _ in things]
        self.own: list[list[str]] = [[] for _ in things]
        for phrase, numbers in self.meanings.items():
            thing = things[numbers[0]]
            own = phrase == plain(thing.name) or phrase in ALIASES.get(thing.name, ())
            (self.own if own else self.phrases)[numbers[0]].append(phrase)

    def known_words(self) -> list[str]:
        """Every word that says something: of things, colours, styles, shapes, sizes and places."""
        groups: list[Sequence[str]] = [list(self.meanings), *(w for _, w in COLOUR_WORDS.values())]
        groups += [*STYLE_WORDS.values(), *SHAPE_WORDS.values(), *_SIZE_WORDS.values(), *_SPOTS.values()]
        words = {w for group in groups for phrase in group for w in plain(phrase).split()}
        return sorted(w for w in words - _FILLERS if len(w) > 1)

    def random(self, rng: Generator, thing_share: float = 0.85) -> Caption:
        """A training caption of a scene never held out; one in forty says nothing."""
        if rng.random() < 0.025:
            return NOTHING
        while True:
            caption = self.of_thing(rng) if rng.random() < thing_share else self.of_shape(rng)
            if caption.scene is not None and not self.held_out(caption.scene):
                return caption

    def held_out(self, scene: Scene) -> bool:
        """Whether training never sees this scene."""
        ground = nearest_name(scene.ground)
        if scene.thing is not None:
            return held_out_pair(self.things[scene.thing].name, ground)
        assert scene.shape is not None
        return held_out_shape(scene.shape.shape, nearest_name(scene.shape.colour), ground)

    def of_thing(
        self,
        rng: Generator,
        *,
        thing: int | None = None,
        style: str | None = None,
        ground: str | None = None,
        bare: bool = False,
        says: bool | None = None,
    ) -> Caption:
        """A caption of one thing. Style and ground are said at random unless given; ``bare`` leaves out all ornament;
        ``says`` False says nothing but the thing."""
        number = int(rng.integers(len(self.things))) if thing is None else thing
        own, others = self.own[number], self.phrases[number]
        if not own and not others:  # "blue heart" alone is a plain shape, "a 3d blue heart" is not
            own, style = [plain(self.things[number].name)], style or _pick(rng, STYLES)
        phrase = _pick(rng, others) if others and (not own or (not bare and rng.random() < 0.35)) else _pick(rng, own)
        if style is None and says is not False and rng.random() < 0.35:
            style = _pick(rng, STYLES)
        if ground is None and says is not False and rng.random() < 0.4:
            ground = _pick(rng, list(COLOURS)) if rng.random() < 0.65 else _pick(rng, list(COLOUR_WORDS))
        text = self._worded(rng, phrase, style, ground, bare)
        rgb = COLOUR_WORDS[ground or DEFAULT_BACKGROUND][0]
        scene = Scene(rgb, number, style or DEFAULT_STYLE)
        return Caption(text, scene, tuple(self.meanings.get(phrase, [number])), style is not None, ground is not None)

    def _worded(self, rng: Generator, phrase: str, style: str | None, ground: str | None, bare: bool) -> str:
        ornament = 0.0 if bare else 1.0
        before = self._adjective(rng, phrase) if rng.random() < 0.25 * ornament else ""
        if style and rng.random() < 0.3:
            before = f"{before} {_pick(rng, _STYLES_BEFORE[style])}"
            style = None
        if rng.random() < 0.03 * ornament:
            phrase = f"{_pick(rng, _FORMS)} {phrase}"
        noun = f"{before} {phrase}".strip()
        if rng.random() < 0.55:
            noun = f"{_pick(rng, ('a', 'a', 'a', 'a', 'the', 'one'))} {noun}"
        elif rng.random() < 0.1 * ornament and not noun.endswith("s"):
            noun += "s"
        if rng.random() < 0.2 * ornament:
            noun = f"{_pick(rng, _OPENINGS)} {noun}"
        tail = [_join(rng, _pick(rng, STYLE_WORDS[style]))] if style else []
        if ground:
            tail.append(_join(rng, _pick(rng, _GROUNDS).format(_pick(rng, COLOUR_WORDS[ground][1]))))
        if rng.random() < 0.5:
            tail.reverse()
        parts = [noun, *tail]
        if tail and rng.random() < 0.08 * ornament:  # the ground or the style first
            parts = [tail[0].strip(" ,"), ",", noun, *tail[1:]]
        if rng.random() < 0.12 * ornament:
            parts.append(_join(rng, _pick(rng, _ENDINGS)))
        return _tidy(" ".join(parts))

    def _adjective(self, rng: Generator, phrase: str) -> str:
        """One in five is a colour, which a thing that has its own colours does not take."""
        colour = _pick(rng, list(COLOURS))
        if rng.random() < 0.8 or phrase.split()[-1] in SHAPES or f"{colour} {phrase}" in self.meanings:
            return _pick(rng, _ADJECTIVES)
        return colour

    def of_shape(self, rng: Generator, *, full: bool | None = None, shape: str | None = None) -> Caption:
        """A caption of a coloured shape; ``full`` says everything, False only shape and colour, None is mixed."""
        shape = shape or _pick(rng, SHAPES)
        word = _pick(rng, SHAPE_WORDS[shape])
        chance = rng.random
        says_colour = full is not None or word not in _ALONE or chance() < 0.8
        says_cell = bool(full) or (full is None and chance() < 0.5)
        says_size = bool(full) or (full is None and chance() < 0.4)
        says_ground = bool(full) or (full is None and chance() < 0.55)
        colour = _pick(rng, list(COLOURS)) if says_colour else DEFAULT_COLOURS[shape]
        default = DEFAULT_BACKGROUND if colour != DEFAULT_BACKGROUND else "gray"
        ground = default
        while says_ground and (ground == default or nearest_name(COLOUR_WORDS[ground][0]) == colour):
            ground = _pick(rng, list(COLOURS)) if chance() < 0.8 else _pick(rng, list(COLOUR_WORDS))
            if ground == DEFAULT_BACKGROUND and colour != DEFAULT_BACKGROUND:
                break
        cell = CELLS[rng.integers(9)] if says_cell else "center"
        size = _pick(rng, list(SIZES)) if says_size else None
        extent = SIZES[size] if size else SIZES["large"] if says_cell else FILLING
        rgb = tuple(float(v) for v in COLOURS[colour])
        drawn = Shape(shape, rgb, extent, (64.0, 64.0)) if not says_cell else placed(shape, rgb, cell, extent)
        text = self._shape_worded(
            rng,
            word,
            _pick(rng, COLOUR_WORDS[colour][1]) if says_colour else "",
            size,
            cell if says_cell else None,
            _pick(rng, COLOUR_WORDS[ground][1]) if says_ground else "",
        )
        return Caption(text, Scene(COLOUR_WORDS[ground][0], shape=drawn), (), False, says_ground)

    def _shape_worded(
        self, rng: Generator, word: str, colour: str, size: str | None, cell: str | None, ground: str
    ) -> str:
        sized = _pick(rng, _SIZE_WORDS[size]) if size else ""
        noun = f"{sized} {colour} {word}" if rng.random() < 0.85 else f"{colour} {sized} {word}"
        if rng.random() < 0.65:
            noun = f"a {noun}"
        if rng.random() < 0.12:
            noun = f"{_pick(rng, _OPENINGS)} {noun}"
        tail: list[str] = []
        if cell:
            spot = _pick(rng, _SPOTS[cell])
            forms = (
                ("in the {} corner", "in the {}", "{}")
                if " " in cell
                else ("at the {}", "on the {}", "in the {}", "{}")
            )
            tail.append(_join(rng, _pick(rng, forms).format(spot)))
        if ground:
            tail.append(_join(rng, _pick(rng, _GROUNDS).format(ground)))
        if len(tail) == 2 and rng.random() < 0.4:
            tail.reverse()
        return _tidy(" ".join([noun, *tail]))


_FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "as",
        "with",
        "to",
        "and",
        "or",
        "my",
        "me",
        "i",
        "please",
        "draw",
        "show",
        "make",
        "picture",
        "image",
        "photo",
        "drawing",
        "background",
        "style",
        "corner",
        "side",
        "'s",
        "s",
        "it",
        "is",
        "for",
    ]
)


def _pick(rng: Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _join(rng: Generator, part: str) -> str:
    return f", {part}" if rng.random() < 0.35 else part


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).replace(" ,", ",").strip(" ,")
    return re.sub(r"\ba (?=[aeio])", "an ", text)
