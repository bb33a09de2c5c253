"""A file on this machine that an import takes."""

from __future__ import annotations

from pathlib import Path

import msgspec


class LocalFile(msgspec.Struct, frozen=True):
    """A file to take. ``announced`` is the SHA-256 that a Hugging Face cache names it by, or None.

    :param linked: whether it may be hard linked.
    """

    path: str
    file: Path
    size: int
    announced: str | None = None
    linked: bool = False
