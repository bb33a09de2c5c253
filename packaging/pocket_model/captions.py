"""Writes the English captions that ask for a scene, mostly short and vague, as people type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocket_model.drawings import COLOURS, SHAPES
from pocket_model.phrases import (
    COLOUR_WORDS,
    GROUNDS,
    NOTHING,
    OPENINGS,
    SHAPE_WORDS,
    SIZE_WORDS,
    SPOTS,
    STYLE_WORDS,
    STYLES_BEFORE,
    Caption,
    join,
    pick,
    tidy,
)
from pocket_model.pictures import DEFAULT_BACKGROUND
from pocket_model.scenes import DEFAULT_STYLE, Scene, held_out_pair, held_out_shape, nearest_name
from pocket_model.shape_captions import shape_caption
from pocket_model.things import STYLES, Thing
from pocket_model.words import ALIASES, meanings, plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.random import Generator

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
_FILLERS = frozenset({
    "a", "an", "the", "of", "in", "on", "at", "as", "with", "to", "and", "or", "my", "me", "i", "please", "draw",
    "show", "make", "picture", "image", "photo", "drawing", "background", "style", "corner", "side", "'s", "s", "it",
    "is", "for",
})  # fmt: skip


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
        """Every word with a meaning: things, colours, styles, shapes, sizes and places."""
        groups: list[Sequence[str]] = [list(self.meanings), *(w for _, w in COLOUR_WORDS.values())]
        groups += [*STYLE_WORDS.values(), *SHAPE_WORDS.values(), *SIZE_WORDS.values(), *SPOTS.values()]
        words = {w for group in groups for phrase in group for w in plain(phrase).split()}
        return sorted(w for w in words - _FILLERS if len(w) > 1)

    def random(self, rng: Generator, thing_share: float = 0.85, **shares: Any) -> Caption:
        """A training caption of a scene never held out; one in forty says nothing. The other ``shares`` are those of
        :meth:`of_thing`."""
        if rng.random() < 0.025:
            return NOTHING
        while True:
            caption = self.of_thing(rng, **shares) if rng.random() < thing_share else shape_caption(rng)
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
        phrase: str | None = None,
        style: str | None = None,
        ground: str | None = None,
        bare: bool = False,
        says: bool | None = None,
        style_share: float = 0.35,
        plural: bool = False,
    ) -> Caption:
        """A caption of one thing. Its name, style and ground are said at random unless given; ``phrase`` is one
        of ``meanings``, and says which thing. ``bare`` leaves out all ornament; ``says`` False says nothing but the
        thing. ``style_share`` of the captions say a style. With ``plural`` all are plurals, without some are.
        """
        if phrase is not None:
            thing = self.meanings[phrase][0]
        number = int(rng.integers(len(self.things))) if thing is None else thing
        own, others = ([phrase], []) if phrase else (self.own[number], self.phrases[number])
        if not own and not others:  # "blue heart" alone is a plain shape, "a 3d blue heart" is not
            own, style = [plain(self.things[number].name)], style or pick(rng, STYLES)
        phrase = pick(rng, others) if others and (not own or (not bare and rng.random() < 0.35)) else pick(rng, own)
        if style is None and says is not False and rng.random() < style_share:
            style = pick(rng, STYLES)
        if ground is None and says is not False and rng.random() < 0.4:
            ground = pick(rng, list(COLOURS)) if rng.random() < 0.65 else pick(rng, list(COLOUR_WORDS))
        text = self._worded(rng, phrase, style, ground, bare, plural)
        rgb = COLOUR_WORDS[ground or DEFAULT_BACKGROUND][0]
        scene = Scene(rgb, number, style or DEFAULT_STYLE)
        return Caption(text, scene, tuple(self.meanings.get(phrase, [number])), style is not None, ground is not None)

    def _worded(
        self, rng: Generator, phrase: str, style: str | None, ground: str | None, bare: bool, plural: bool
    ) -> str:
        ornament = 0.0 if bare else 1.0
        before = self._adjective(rng, phrase) if rng.random() < 0.25 * ornament else ""
        if style and rng.random() < 0.3:
            before = f"{before} {pick(rng, STYLES_BEFORE[style])}"
            style = None
        if rng.random() < 0.03 * ornament:
            phrase = f"{pick(rng, _FORMS)} {phrase}"
        noun = f"{before} {phrase}".strip()
        if not plural and rng.random() < 0.55:
            noun = f"{pick(rng, ('a', 'a', 'a', 'a', 'the', 'one'))} {noun}"
        elif (plural or rng.random() < 0.1 * ornament) and not noun.endswith("s"):
            noun += "s"
        if rng.random() < 0.2 * ornament:
            noun = f"{pick(rng, OPENINGS)} {noun}"
        tail = [join(rng, pick(rng, STYLE_WORDS[style]))] if style else []
        if ground:
            tail.append(join(rng, pick(rng, GROUNDS).format(pick(rng, COLOUR_WORDS[ground][1]))))
        if rng.random() < 0.5:
            tail.reverse()
        parts = [noun, *tail]
        if tail and rng.random() < 0.08 * ornament:  # the ground or the style first
            parts = [tail[0].strip(" ,"), ",", noun, *tail[1:]]
        if rng.random() < 0.12 * ornament:
            parts.append(join(rng, pick(rng, _ENDINGS)))
        return tidy(" ".join(parts))

    def _adjective(self, rng: Generator, phrase: str) -> str:
        """One in five is a colour, which a thing with its own colours does not take on."""
        colour = pick(rng, list(COLOURS))
        if rng.random() < 0.8 or phrase.split()[-1] in SHAPES or f"{colour} {phrase}" in self.meanings:
            return pick(rng, _ADJECTIVES)
        return colour
