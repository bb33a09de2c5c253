"""A model's digest: SHA-256 over the canonical list of its files' (path, size, sha256).

Two folders with the same files have the same digest, wherever they lie. Hidden files do not count.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20
_known: dict[tuple[str, tuple[tuple[str, int, int], ...]], str] = {}


def model_digest(folder: Path) -> str:
    """``sha256:<hex>`` of a model's folder; hashed once per process and state of the files.

    Reads every byte the first time: call it off the event loop.

    :raises OSError: when a file cannot be read.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    key = (str(folder), tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))
    if key not in _known:
        rows = [(name, stat.st_size, _sha256(path)) for path, (name, stat) in zip(files, stats, strict=True)]
        _known[key] = "sha256:" + hashlib.sha256(msgspec.json.encode(rows)).hexdigest()
    return _known[key]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
