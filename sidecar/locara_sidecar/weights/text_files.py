"""How long a text file of a model or of the model cache may be, by its name. A stranger wrote it, and what is made of
it takes up to 25 times its bytes: it is refused by its length, before any of it is read. So is what is not a regular
file: one would wait for a pipe.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 4 << 20
"""Bytes. The longest of a published model is an index of 300 KB."""
_MOST_WORDS = 16 << 20
_WORDS = frozenset({"tokenizer.json", "vocab.json", "merges.txt"})
"""Tokenizers are longer: 2 MB those that are run here, 11 MB those of larger text encoders."""


class UnfitError(ValueError):
    """The file is longer than one of its name may be, or is none; the message says what it is."""


def read(path: Path, name: str = "") -> bytes:
    """The contents of a text file.

    :param name: its name, if that is not the path's.
    :raises UnfitError: before any of it is read.
    :raises OSError: when it cannot be read.
    """
    most = require(path, name)
    with path.open("rb") as file:
        return file.read(most)


def require(path: Path, name: str = "") -> int:
    """How many bytes a file of this name may have.

    :param name: as for :func:`read`.
    :raises UnfitError: where it has more, or is not a regular file.
    :raises OSError: when it cannot be looked at.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnfitError("it is not a regular file")
    return require_size(name or path.name, status.st_size)


def require_size(name: str, size: int) -> int:
    """How many bytes a file of this name may have.

    :raises UnfitError: where ``size`` is more.
    """
    most = _MOST_WORDS if name in _WORDS else _MOST
    if size > most:
        raise UnfitError(f"it is longer than the {most >> 20} MiB that a file of this kind may have")
    return most
