"""Owns the English: every way a scene may be asked for, and which of those ways training never sees.

A caption says some of a scene's attributes; ``Caption.said`` holds those, so that a picture is only ever judged by what
was asked. A wording is the combination (sentence, phrase, shape word, colour word); one wording in six is held out of
training, by a checksum, so every sentence and every word is known and their combination is not. (Captions too short to
be said otherwise, such as a background alone, are exempt; what is measured always says shape and colour.)
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocket_model.drawings import CELLS, Scene, Thing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "disk", "dot", "ball"),
    "square": ("square", "square", "box", "block"),
    "triangle": ("triangle", "triangle", "pyramid"),
    "star": ("star", "star", "five-pointed star"),
    "heart": ("heart", "heart", "love heart", "valentine"),
    "diamond": ("diamond", "diamond", "rhombus", "lozenge"),
    "cross": ("cross", "cross", "plus sign", "plus"),
    "ring": ("ring", "ring", "hoop", "donut", "hollow circle"),
}
COLOUR_WORDS = {
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "lemon", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "cobalt", "navy"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rose"),
    "brown": ("brown", "brown", "chocolate"),
    "black": ("black", "black", "jet black"),
    "white": ("white", "white", "ivory"),
    "gray": ("gray", "grey", "gray", "grey"),
    "cyan": ("cyan", "cyan", "turquoise", "teal"),
}
SIZE_WORDS = {
    "small": ("small", "small", "little", "tiny", "mini"),
    "medium": ("medium", "medium-sized", "mid-sized", "medium"),
    "large": ("large", "large", "big", "huge", "giant"),
}
_SPOTS = {
    "top left": ("top left", "upper left", "top-left"),
    "top": ("top", "top center", "top middle", "upper middle"),
    "top right": ("top right", "upper right", "top-right"),
    "left": ("left", "left side", "middle left", "center left"),
    "center": ("center", "middle", "centre"),
    "right": ("right", "right side", "middle right", "center right"),
    "bottom left": ("bottom left", "lower left", "bottom-left"),
    "bottom": ("bottom", "bottom center", "bottom middle", "lower middle"),
    "bottom right": ("bottom right", "lower right", "bottom-right"),
}
_BACKGROUNDS = (
    "on a {} background", "on a {} background", "against a {} background", "over a {} background",
    "with a {} background",
    "on a {} backdrop", "against a {} backdrop", "on {}", "against {}", "on a {} canvas", "background {}",
    "{} background", "in front of a {} background",
)  # fmt: skip
_OPENINGS = (
    "a picture of", "an image of", "draw", "please draw", "show me", "i want", "a drawing of", "an icon of", "make",
    "paint", "clip art of", "illustration of", "generate", "create", "can you draw", "a photo of", "just",
)  # fmt: skip
_ADJECTIVES = (
    "simple", "flat", "nice", "cute", "plain", "solid", "bright", "beautiful", "clean", "crisp", "shiny", "pretty",
    "single", "lovely", "bold", "sharp", "perfect", "cool", "modern", "geometric", "glossy", "smooth", "funny",
)  # fmt: skip
_ENDINGS = (
    "please", "minimal", "vector art", "high quality", "simple style", "thanks", "flat design", "clip art",
    "digital art",
    "4k", "highly detailed", "clean lines", "no text", "for my website", "in the style of a poster", "as an icon",
    "nothing else", "trending", "masterpiece", "sharp edges",
)  # fmt: skip
_STRANGERS = (
    "house", "dog", "cat", "tree", "city", "photo", "light", "water", "sunny", "happy", "winter", "my", "your", "hello",
    "computer", "morning", "wonderful", "old", "new", "fast", "paper", "glass", "wooden", "metal", "magic", "dream",
    "forest", "ocean", "mountain", "portrait", "realistic", "cinematic", "cartoon", "watercolor", "sketch", "3d",
    "test",
    "abstract", "art", "sky", "night", "sun", "car", "person", "robot", "space", "garden", "river", "food", "music",
)  # fmt: skip
_NOUNS = ("shape", "object", "thing", "figure")


@dataclass(frozen=True)
class Asked:
    """What a caption says of one thing; None where it says nothing."""

    shape: str | None = None
    colour: str | None = None
    cell: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Caption:
    """The text, what it says, and whether its wording is kept out of training."""

    text: str
    background: str | None
    things: tuple[Asked, ...]
    relation: str | None = None
    """For two things, "left", "right", "above" or "below": where the first is, seen from the second."""
    held_out: bool = False


def known_words() -> list[str]:
    """Every word that says something to the model: of shapes, colours, sizes and places."""
    groups = [*SHAPE_WORDS.values(), *COLOUR_WORDS.values(), *SIZE_WORDS.values(), *_SPOTS.values()]
    words = {word for group in groups for phrase in group for word in re.findall(r"[a-z]+", phrase)}
    return sorted(words - {"five", "jet", "love", "mid", "pointed", "side", "sign", "sized"})


FULL = Asked("yes", "yes", "yes", "yes")
NOTHING = Caption("", None, ())


def random_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """A training caption: sometimes complete, sometimes vague, sometimes a single word, as users and negative prompts
    are; never a held-out wording. The empty caption is left to the trainer."""
    if len(scene.things) == 2:
        return write(
            scene, rng, asked=[_some(rng, 0.97, 0.97, 0.75, 0.4) for _ in range(2)], background=rng.random() < 0.6
        )
    kind = rng.random()
    if kind < 0.4:
        return write(scene, rng)
    if kind < 0.9:
        return write(scene, rng, asked=[_some(rng, 0.9, 0.9, 0.65, 0.55)], background=rng.random() < 0.65)
    only = rng.integers(5)
    asked = Asked(*("yes" if only == i else None for i in range(4)))
    return write(scene, rng, asked=[asked], background=bool(only == 4))


def _some(rng: np.random.Generator, shape: float, colour: float, cell: float, size: float) -> Asked:
    return Asked(*("yes" if rng.random() < p else None for p in (shape, colour, cell, size)))


def write(
    scene: Scene,
    rng: np.random.Generator,
    *,
    asked: Sequence[Asked] | None = None,
    background: bool = True,
    held_out: bool = False,
    plain: bool = False,
) -> Caption:
    """Words a scene, saying only the attributes that ``asked`` marks (default: all) and the background if wanted.

    ``held_out`` wants a wording that training never uses, otherwise one that it may use; ``plain`` leaves out openings,
    endings and stray words. The result's ``held_out`` tells what it is, since some captions have no other wording.
    """
    asked = asked or [FULL] * len(scene.things)
    for _ in range(40):
        caption = _Writer(rng, plain).write(scene, asked, background)
        if caption.held_out == held_out:
            break
    return caption


class _Writer:
    """One attempt at a caption; collects the choices that make up its wording."""

    def __init__(self, rng: np.random.Generator, plain: bool) -> None:
        self._rng = rng
        self._plain = plain
        self._wording: list[str] = []

    def write(self, scene: Scene, asked: Sequence[Asked], background: bool) -> Caption:
        ground = scene.background if background else None
        said = tuple(
            Asked(
                t.shape if a.shape else None, t.colour if a.colour else None,
                t.cell if a.cell else None, t.size if a.size else None,
            )
            for t, a in zip(scene.things, asked, strict=True)
        )  # fmt: skip
        relation = None
        if len(said) == 2:
            relation = _relation(*scene.things) if self._chance(0.35) else None
            if relation:
                said = tuple(Asked(a.shape, a.colour, None, a.size) for a in said)
            text = self._two(said, relation, ground)
        else:
            text = self._one(said[0], ground)
        text = re.sub(r"\ba (?=[aeiou])", "an ", self._decorate(text))
        key = "|".join(self._wording).encode()
        return Caption(text, ground, said, relation, zlib.crc32(key) % 6 == 0)

    def _chance(self, p: float) -> bool:
        return self._rng.random() < p

    def _pick(self, options: Sequence[str]) -> str:
        return options[self._rng.integers(len(options))]

    def _choose(self, options: Sequence[str]) -> str:
        chosen = self._pick(options)
        self._wording.append(chosen)
        return chosen

    def _thing(self, a: Asked, *, bare: bool = False) -> str:
        shape = self._choose(SHAPE_WORDS[a.shape]) if a.shape else self._pick(_NOUNS)
        colour = self._choose(COLOUR_WORDS[a.colour]) if a.colour else ""
        size = self._pick(SIZE_WORDS[a.size]) if a.size else ""
        extra = self._pick(_ADJECTIVES) if not self._plain and self._chance(0.12) else ""
        article = "" if bare else self._pick(("a", "a", "a", "one"))
        forms = ["{article} {extra} {size} {colour} {shape}"] * 4
        if colour:
            forms += [
                "{article} {size} {extra} {shape} in {colour}",
                "{article} {extra} {size} {colour} coloured {shape}",
            ]
            forms += ["{article} {extra} {size} {shape} colored {colour}", "{article} {size} {shape} that is {colour}"]
        if colour and size:
            forms += ["{article} {colour} {shape} that is {size}", "{article} {colour} {extra} {size} {shape}"]
            forms += ["{article} {extra} {shape} , {colour} and {size} ,"]
        if size:
            forms += ["{article} {colour} {shape} of {size} size"]
        if not a.shape and colour:
            forms += ["something {colour} {size}"]
        form = self._choose(forms)
        return form.format(article=article, extra=extra, size=size, colour=colour, shape=shape)

    def _spot(self, cell: str) -> str:
        spot = self._pick(_SPOTS[cell])
        if " " in cell:  # a corner
            forms = ("in the {} corner", "in the {} corner", "in the {}", "at the {}", "{}", "{} corner", "on the {}")
        elif cell == "center":
            forms = (
                "in the {}",
                "in the {}",
                "at the {}",
                "in the very {}",
                "{}",
                "in the {} of the picture",
                "centered",
            )
        else:
            forms = ("at the {}", "on the {}", "in the {}", "{}", "near the {} edge", "to the {}")
        return self._pick(forms).format(spot)

    def _ground(self, colour: str) -> str:
        return self._choose(_BACKGROUNDS).format(self._pick(COLOUR_WORDS[colour]))

    def _one(self, a: Asked, ground: str | None) -> str:
        if not (a.shape or a.colour or a.size):
            return self._no_thing(a, ground)
        if self._chance(0.15):
            return self._tags(a, ground)
        thing = self._thing(a)
        spot = self._spot(a.cell) if a.cell else ""
        if not ground:
            form = self._choose(
                ["{thing} {spot}"] * 2 + ["{spot} , {thing}", "{spot} {thing}", "there is {thing} {spot}"]
            )
            return form.format(thing=thing, spot=spot)
        colour = self._pick(COLOUR_WORDS[ground])
        forms = ["{thing} {spot} {ground}"] * 3 + ["{thing} {ground} {spot}"] * 2
        forms += ["{thing} {ground} , {spot}", "{thing} {spot} , {ground}", "{ground} , {thing} {spot}"]
        forms += ["a {colour} background with {thing} {spot}", "{colour} background , {thing} , {spot}"]
        forms += [
            "the background is {colour} and there is {thing} {spot}",
            "{thing} {spot} , the background is {colour}",
        ]
        if spot:
            forms += ["{spot} , {thing} {ground}", "{spot} of a {colour} picture there is {thing}"]
            forms += ["{thing} {spot} of a {colour} background", "{thing} placed {spot} {ground}"]
        form = self._choose(forms)
        return form.format(
            thing=thing, spot=spot, colour=colour, ground=self._ground(ground) if "{ground}" in form else ""
        )

    def _no_thing(self, a: Asked, ground: str | None) -> str:
        words = []
        if a.cell:
            words.append(self._spot(a.cell))
            if self._chance(0.5):
                words.insert(int(self._rng.integers(2)), f"a {self._pick(_NOUNS)}")
        if ground:
            words.append(self._ground(ground))
        return " ".join(words)

    def _tags(self, a: Asked, ground: str | None) -> str:
        tags = [self._pick(SIZE_WORDS[a.size])] if a.size else []
        if a.shape and a.colour and self._chance(0.5):
            tags.append(self._thing(Asked(a.shape, a.colour), bare=True))
        else:
            tags += [self._choose(SHAPE_WORDS[a.shape]) + ("s" if self._chance(0.1) else "")] if a.shape else []
            tags += [self._choose(COLOUR_WORDS[a.colour])] if a.colour else []
        tags += [self._spot(a.cell)] if a.cell else []
        tags += [f"{self._pick(COLOUR_WORDS[ground])} background"] if ground else []
        order = self._rng.permutation(len(tags))
        self._wording.append("tags")
        return " , ".join(tags[i] for i in order)

    def _two(self, said: tuple[Asked, ...], relation: str | None, ground: str | None) -> str:
        first, second = (self._thing(a) for a in said)
        if relation:
            words = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
            text = f"{first} {words[relation]} {second}"
        else:
            spots = [self._spot(a.cell) if a.cell else "" for a in said]
            if said[0].cell and said[1].cell and self._chance(0.3):
                text = f"{spots[0]} {first} and {spots[1]} {second}"
            else:
                text = f"{first} {spots[0]} {self._pick(('and', 'and', 'and', ',', 'with'))} {second} {spots[1]}"
        if not ground:
            return text
        return f"{text} {self._ground(ground)}" if self._chance(0.75) else f"{self._ground(ground)} , {text}"

    def _decorate(self, text: str) -> str:
        words = text.split()
        if not self._plain:
            if self._chance(0.25):
                words = [*self._pick(_OPENINGS).split(), *words]
            if self._chance(0.15):
                words += [",", *self._pick(_ENDINGS).split()]
            if self._chance(0.06):
                words.append(self._pick(_STRANGERS))
            if self._chance(0.04):
                words.insert(0, self._pick(_STRANGERS))
            if self._chance(0.12):
                words.append(self._pick((".", "!")))
        text = " ".join(words)
        text = re.sub(r" ([,.!])", r"\1", text)
        return re.sub(r",+(?=[,.!])|^,\s*|,\s*$", "", text)


def _relation(a: Thing, b: Thing) -> str | None:
    (ax, ay), (bx, by) = ((CELLS.index(t.cell) % 3, CELLS.index(t.cell) // 3) for t in (a, b))
    if ay == by:
        return "left" if ax < bx else "right"
    if ax == bx:
        return "above" if ay < by else "below"
    return None
