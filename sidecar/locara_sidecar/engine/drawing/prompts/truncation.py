"""Find the words of a prompt that a text encoder did not see."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Reader(NamedTuple):
    """A text encoder as this module sees it: its display name and what it accepts.

    ``limit``: the maximum number of tokens, ``specials`` of which mark the start and the end. ``starts`` returns the
    position in the text (characters from 0) at which each token begins, without special tokens and without truncation.
    ``keeps_end``: a text that is too long loses its beginning.
    """

    name: str
    limit: int
    specials: int
    starts: Callable[[str], Sequence[int]]
    keeps_end: bool = False


_TOLD = 600
"""How many characters of the lost part a warning quotes, from its beginning and its end; a prompt may have 16,384."""


def lost_part(text: str, reader: Reader) -> str:
    """Return the part of ``text`` that does not fit, in whole words; empty if all of it fits.

    That is the end, from the first truncated word on or, with ``keeps_end``, the beginning, up to the last truncated
    word.
    """
    starts = reader.starts(text)
    room = reader.limit - reader.specials
    if len(starts) <= room:
        return ""
    if reader.keeps_end:
        end = starts[len(starts) - room] if room > 0 else len(text)
        while end < len(text) and not text[end - 1].isspace() and not text[end].isspace():
            end += 1
        return text[:end].strip()
    start = starts[room]
    while start > 0 and not text[start - 1].isspace() and not text[start].isspace():
        start -= 1
    return text[start:].strip()


def truncation_warning(text: str, readers: Sequence[Reader], what: str = "prompt") -> str | None:
    """Say which encoders lost words, which words, and which encoders saw everything. None if nothing was lost.

    :param what: ``prompt`` or ``negative prompt``.
    """
    lost: dict[tuple[int, str], list[str]] = {}
    whole: list[str] = []
    for reader in readers:
        if part := lost_part(text, reader):
            lost.setdefault((reader.limit, part), []).append(reader.name)
        else:
            whole.append(reader.name)
    if not lost:
        return None
    sentences = [
        f"{_join(names)} {_verb(names, 'reads', 'read')} only {limit} tokens of the {what} "
        f"and did not see: {_quoted(part)}."
        for (limit, part), names in lost.items()
    ]
    if whole:
        sentences.append(f"{_join(whole)} {_verb(whole, 'sees', 'see')} all of it.")
    return " ".join(sentences)


def _quoted(part: str) -> str:
    return repr(part) if len(part) <= _TOLD else f"{part[: _TOLD // 2]!r} … {part[-_TOLD // 2 :]!r}"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: list[str], singular: str, plural: str) -> str:
    return singular if len(names) == 1 else plural
