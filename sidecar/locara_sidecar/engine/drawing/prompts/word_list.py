"""The vocabulary of a small model, from a file beside it: a prompt without any known word gets a warning.

This module defines the file format, which prompts get a warning, and its text. A model without a list never causes a
warning, as is the case for every model trained on ordinary text. The file format, ``word_list.json``::

    {"format": "locara-word-list/1", "words": ["cat", "blue", ...], "examples": ["a cat", "a rocket in 3d style"]}

``words`` are lower-case and exclude words that describe nothing to draw, such as "a", "please" or "picture".
``examples`` are prompts that the model draws well.
"""

from __future__ import annotations

import difflib
import functools
import re
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "word_list.json"

_NEAR = 5
_TOLD = 8
"""Number of unknown words that a message quotes."""
_LONGEST = 40
"""Characters of one of them; longer ones are like no known word."""
_LEAST_LIKENESS = 0.7
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class WordList(NamedTuple):
    """The words that a model knows, and a few prompts that show what it can do."""

    words: frozenset[str]
    examples: tuple[str, ...]

    def knows(self, word: str) -> bool:
        """Whether the list has a word (in lower case), its singular, or the word without its possessive ending."""
        return any(word.removesuffix(ending) in self.words for ending in ("", "s", "es", "'s"))

    def near(self, words: list[str]) -> list[str]:
        """Return known words spelt like any of ``words``, most similar first."""
        alike: dict[str, float] = {}
        for word in words:
            for found in difflib.get_close_matches(word, self.words, _NEAR, _LEAST_LIKENESS):
                alike[found] = max(alike.get(found, 0.0), difflib.SequenceMatcher(None, word, found).ratio())
        return sorted(alike, key=lambda word: (-alike[word], word))[:_NEAR]


class _Stored(msgspec.Struct):
    """The file's contents. Its limits are far above any real list, and low enough to search the list quickly."""

    format: Literal["locara-word-list/1"]
    words: Annotated[list[Annotated[str, Meta(max_length=_LONGEST)]], Meta(max_length=20_000)]
    examples: Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=8)] = []


@functools.lru_cache(maxsize=4)
def read(folder: Path, digest: str) -> WordList | None:
    """Read the list in a model's folder. None if there is none or it is not valid.

    :param digest: the model's; part of the cache key, so that another model in the same place is read again.
    """
    del digest
    try:
        stored = msgspec.json.decode(text_files.read(folder / FILE_NAME), type=_Stored)
    except (OSError, ValueError, RecursionError):
        return None
    known = frozenset(word.lower() for word in stored.words if word)
    return WordList(known, tuple(stored.examples)) if known else None


def warning(prompt: str, known: WordList | None) -> str | None:
    """Return a warning that names the unknown words and similar known ones; None if the model knows any word.

    A prompt without any words asks for nothing in particular, so it gets no warning.
    """
    if known is None:
        return None
    words = list(dict.fromkeys(word.lower().replace("’", "'") for word in _WORD.findall(prompt)))
    if not words or any(known.knows(word) for word in words):
        return None
    quoted = ", ".join(map(_quoted, words[:_TOLD])) + (" …" if len(words) > _TOLD else "")
    sentences = [f"The model knows none of the words in the prompt ({quoted}), so the picture is unrelated to it."]
    if near := known.near([word for word in words[:_TOLD] if len(word) <= _LONGEST]):
        sentences.append(f"Similar words that it knows: {', '.join(near)}.")
    if known.examples:
        sentences.append(f"It draws, for example: {'; '.join(known.examples)}.")
    return " ".join(sentences)


def _quoted(word: str) -> str:
    return repr(word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…")
