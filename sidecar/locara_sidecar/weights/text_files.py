"""Limits the length of text files, by name: a model's, and those of the model cache. A stranger may have written them,
and parsing takes up to 25 times their bytes in memory, so a long one is refused before any of it is read. So is
anything that is not a regular file: reading a pipe would wait forever.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 4 << 20
"""In bytes. The longest one of a published model is an index of 300 KB."""
_MOST_WORDS = 16 << 20
_WORDS = frozenset({"tokenizer.json", "vocab.json", "merges.txt"})
"""Tokenizers' files are longer: 2 MB in supported models, 11 MB in larger text encoders."""


class UnfitError(ValueError):
    """A file is too long for its name, or not a regular file; the message says which."""


def read(path: Path, name: str = "") -> bytes:
    """Return the contents of a text file.

    :param name: the name to go by, if it is not the path's.
    :raises UnfitError: before any of it is read.
    :raises OSError: if it cannot be read.
    """
    most = require(path, name)
    with path.open("rb") as file:
        return file.read(most)


def require(path: Path, name: str = "") -> int:
    """Check a file, and return the number of bytes that one of its name may have.

    :param name: as for :func:`read`.
    :raises UnfitError: if it has more, or is not a regular file.
    :raises OSError: if it cannot be inspected.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnfitError("it is not a regular file")
    return require_size(name or path.name, status.st_size)


def require_size(name: str, size: int) -> int:
    """Check a size, and return the number of bytes that a file of this name may have.

    :raises UnfitError: if ``size`` is more.
    """
    most = _MOST_WORDS if name in _WORDS else _MOST
    if size > most:
        raise UnfitError(f"it is longer than the {most >> 20} MiB that a file of this kind may have")
    return most
