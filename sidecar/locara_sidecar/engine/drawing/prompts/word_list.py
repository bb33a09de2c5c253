"""The words that a small model knows, from a list beside it: a prompt of other words gets a warning.

Owned here: the list's stored form, which prompts are told about, and the sentence. A model without a list, as every
model is that has learnt from ordinary text, is never told about. The stored form, ``word_list.json``::

    {"format": "locara-word-list/1", "words": ["cat", "blue", ...], "examples": ["a cat", "a rocket in 3d style"]}

``words`` are lower-case and hold no words that say nothing to draw, such as "a", "please" or "picture". ``examples``
are prompts that the model draws well.
"""

from __future__ import annotations

import difflib
import functools
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "word_list.json"

_NEAR = 5
_TOLD = 8
"""Unknown words that a message quotes."""
_LEAST_LIKENESS = 0.7
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class WordList(NamedTuple):
    """The words that a model knows, and a few prompts that show what it can do."""

    words: frozenset[str]
    examples: tuple[str, ...]

    def knows(self, word: str) -> bool:
        """Whether a word, in lower case, is in the list; its plural and its genitive count as itself."""
        return any(word.removesuffix(ending) in self.words for ending in ("", "s", "es", "'s"))

    def near(self, words: list[str]) -> list[str]:
        """Known words that are spelt like any of ``words``, the most alike first."""
        alike: dict[str, float] = {}
        for word in words:
            for found in difflib.get_close_matches(word, self.words, _NEAR, _LEAST_LIKENESS):
                alike[found] = max(alike.get(found, 0.0), difflib.SequenceMatcher(None, word, found).ratio())
        return sorted(alike, key=lambda word: (-alike[word], word))[:_NEAR]


class _Stored(msgspec.Struct):
    format: Literal["locara-word-list/1"]
    words: list[str]
    examples: list[str] = []


@functools.lru_cache(maxsize=4)
def read(folder: Path, digest: str) -> WordList | None:
    """The list in a model's folder; None when there is none, or none of this form.

    :param digest: the model's, so that another model in the same place is read anew.
    """
    del digest
    try:
        stored = msgspec.json.decode(text_files.read(folder / FILE_NAME), type=_Stored)
    except (OSError, ValueError, RecursionError):
        return None
    known = frozenset(word.lower() for word in stored.words if word)
    return WordList(known, tuple(stored.examples)) if known else None


def warning(prompt: str, known: WordList | None) -> str | None:
    """A sentence that names the words and near ones that the model knows; None if it knows any word of the prompt.

    A prompt without any word asks for nothing in particular, so there is nothing to tell.
    """
    if known is None:
        return None
    words = list(dict.fromkeys(word.lower().replace("’", "'") for word in _WORD.findall(prompt)))
    if not words or any(known.knows(word) for word in words):
        return None
    quoted = ", ".join(repr(word) for word in words[:_TOLD]) + (" …" if len(words) > _TOLD else "")
    sentences = [f"The model knows no word of the prompt ({quoted}), so the picture is unrelated to it."]
    if near := known.near(words[:_TOLD]):
        sentences.append(f"Similar words that it knows: {', '.join(near)}.")
    if known.examples:
        sentences.append(f"It draws, for example: {'; '.join(known.examples)}.")
    return " ".join(sentences)
