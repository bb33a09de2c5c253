"""Defines which word means which thing.

    python -m pocket_model.words [--work WORK] [WORD ...]

A phrase means a thing if it is its name, is in ALIASES, or is a keyword of so few things that the best of them is
clear. The best is what is trained; the judge accepts others of the same group that have the phrase in their name.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pocket_model import places
from pocket_model.drawings import COLOURS, SHAPES
from pocket_model.things import Thing, all_things, fetched, read_json

ALIASES: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("aliases.toml").read_text(encoding="utf-8"))
"""Words that people type for a thing but that no word list ranks first."""
_TOO_COMMON = 9
_NOT_WORDS = frozenset(
    [
        "this",
        "nice",
        "stuck",
        "shaped",
        "tightly",
        "cute",
        "happy",
        "funny",
        "cool",
        "beautiful",
        "simple",
        "pretty",
        "shiny",
        "old",
        "new",
        "big",
        "small",
        "large",
        "little",
        "side",
        "red",
        "outlined",
        "plain",
        "single",
        "bright",
        "good",
        "bad",
        "yes",
        "no",
        "not",
        "one",
        "two",
        "three",
        "ten",
        "open",
        "set",
        "button",
        "sign",
        "symbol",
        "style",
        "flat",
        "cartoon",
        "icon",
        "picture",
        "drawing",
        "background",
        "eyed",
        "male",
        "female",
        "skin",
        "thing",
        "object",
        "shape",
        "tone",
        "medium",
        "dark",
        "light",
        "white",
        "black",
    ]
)
"""Keywords that mean nothing by themselves."""
_COLOURED = re.compile(rf"^({'|'.join(COLOURS)}|grey|light blue) ({'|'.join(SHAPES)})s?$")


def plain(phrase: str) -> str:
    """Lower case, words separated by single spaces, no punctuation except apostrophes."""
    phrase = phrase.lower().replace("’", "'").replace("ñ", "n")
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", phrase).split())


def keywords(work: Path, things: list[Thing]) -> list[dict[str, float]]:
    """For each thing, its keywords and how specific each is to it."""
    listed = read_json(fetched(work, "words") / "dist" / "emoji-en-US.json")
    tagged = read_json(fetched(work, "tags") / "en" / "data.json")
    tags = {_bare(t["emoji"]): [t["label"], *t.get("tags", [])] for t in tagged}
    also = {_bare(character): given for character, given in listed.items()}
    result: list[dict[str, float]] = []
    for thing in things:
        scores: dict[str, float] = {}
        for given in (also.get(_bare(thing.character), []), tags.get(_bare(thing.character), [])):
            for phrase in dict.fromkeys(plain(g) for g in given):
                scores[phrase] = scores.get(phrase, 0) + 3
        name = plain(thing.name)
        for phrase in scores:
            if phrase == name.split(" ")[-1]:
                scores[phrase] += 2
            elif phrase in name.split(" "):
                scores[phrase] += 1
            scores[phrase] -= 0.3 * len(name.split(" "))
        scores[name] = 100.0
        result.append({p: s for p, s in scores.items() if s == 100 or (len(p) > 1 and not p[0].isdigit())})
    return result


def _bare(character: str) -> str:
    return character.replace("\ufe0f", "")


def meanings(work: Path, things: list[Thing]) -> dict[str, list[int]]:
    """Maps each phrase that means a thing to the numbers of the things that it may mean, best first."""
    scored = keywords(work, things)
    by_phrase: dict[str, list[tuple[float, int]]] = {}
    for number, scores in enumerate(scored):
        for phrase, score in scores.items():
            by_phrase.setdefault(phrase, []).append((score, number))
    for number, thing in enumerate(things):
        for phrase in ALIASES.get(thing.name, ()):
            by_phrase.setdefault(phrase, []).append((99.0, number))
    result: dict[str, list[int]] = {}
    for phrase, found in by_phrase.items():
        found.sort(key=lambda f: (-f[0], f[1]))
        if found[0][0] < 99 and (
            len(found) > _TOO_COMMON or len(phrase) < 3 or phrase in COLOURS or len(phrase.split()) > 4
        ):
            continue
        if phrase in _NOT_WORDS and found[0][0] < 99:
            continue
        if phrase in SHAPES[:3] or _COLOURED.match(phrase):  # these mean plain shapes
            continue
        best = things[found[0][1]]
        same = [
            n
            for _, n in found
            if things[n].group == best.group and set(phrase.split()) <= set(plain(things[n].name).split())
        ]
        result[phrase] = list(dict.fromkeys([found[0][1], *same]))
    return result


def main() -> None:
    """Prints what the given words mean, or every phrase of every thing."""
    parser = places.parser(__doc__)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    things = all_things(options.work)
    known = meanings(options.work, things)
    unused = set(ALIASES) - {t.name for t in things}
    if options.words:
        for word in options.words:
            print(word, "→", ", ".join(things[i].name for i in known.get(plain(word), [])) or "nothing")
        return
    for number, thing in enumerate(things):
        print(f"{thing.name}: {', '.join(p for p, n in known.items() if n[0] == number)}")
    print(f"{len(known)} phrases; aliases of nothing: {', '.join(sorted(unused))}")


if __name__ == "__main__":
    main()
