"""How long a text file of a model may be, by its name. A stranger wrote it, and what is made of it takes up to 25 times
its bytes: it is refused by its length, before any of it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 4 << 20
"""Bytes. The longest of a published model is an index of 300 KB."""
_MOST_WORDS = 16 << 20
_WORDS = frozenset({"tokenizer.json", "vocab.json", "merges.txt"})
"""Tokenizers are longer: 2 MB those that are run here, 11 MB those of larger text encoders."""


class TooLongError(ValueError):
    """The file is longer than one of its name may be; the message says how long that is."""


def read(path: Path) -> bytes:
    """The contents of a text file.

    :raises TooLongError: before any of it is read.
    :raises OSError: when it cannot be read.
    """
    most = require(path)
    with path.open("rb") as file:
        return file.read(most)


def require(path: Path) -> int:
    """How many bytes a file of this name may have.

    :raises TooLongError: where it has more.
    :raises OSError: when it cannot be looked at.
    """
    most = _MOST_WORDS if path.name in _WORDS else _MOST
    if path.stat().st_size > most:
        raise TooLongError(f"it is longer than the {most >> 20} MiB that a file of this kind may have")
    return most
