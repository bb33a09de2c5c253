"""A local file to import."""

from __future__ import annotations

from pathlib import Path

import msgspec


class LocalFile(msgspec.Struct, frozen=True):
    """A file to import. ``announced`` is the SHA-256 in its name in a Hugging Face cache, or None.

    :param linked: whether it may be hard linked.
    """

    path: str
    file: Path
    size: int
    announced: str | None = None
    linked: bool = False
