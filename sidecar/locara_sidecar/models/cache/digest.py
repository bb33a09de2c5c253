"""A model's digest: SHA-256 over the canonical list of its files' (path, size, sha256).

Two folders with the same files have the same digest, wherever they are. Hidden files do not count, nor does the
``meta.json`` that the store adds to the files, nor what ``dpkg`` puts beside a file that it is about to replace.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.machine.processes.trees import files_below, shown
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

META = "meta.json"
"""The store's own file at the top of a model's tree; see ``models/cache/store.py``."""

_TEXTS = frozenset({".json", ".txt", ".md", ".jinja"})
"""The suffixes of a model's texts."""
_UNPACKING = (".dpkg-new", ".dpkg-tmp")
"""Endings of names that exist only while a package is being installed."""
_CHUNK = 1 << 20
_TRIES = 3
_known: dict[tuple[str, tuple[tuple[str, int, int], ...]], str] = {}


class RecordedDigest(msgspec.Struct, frozen=True):
    """The part of a ``meta.json`` with the digest that the store found when it published the tree."""

    digest: str


def digest_of(rows: Iterable[tuple[str, int, str]]) -> str:
    """Return ``sha256:<hex>`` of a list of files: (path with ``/``, size in bytes, SHA-256 in hex), in any order."""
    ordered = sorted(rows, key=lambda row: PurePosixPath(row[0]).parts)
    return "sha256:" + hashlib.sha256(msgspec.json.encode(ordered)).hexdigest()


def model_digest(folder: Path, read: Callable[[int], object] | None = None) -> str:
    """Return ``sha256:<hex>`` of a model's folder; hashed once per process and state of the files.

    A folder of the store was hashed when it was published, and ``models.verify`` hashes it again on request, so its
    recorded digest is used. Any other folder is read in full the first time: call this off the event loop.

    :param read: called now and then with the number of bytes hashed.
    :raises OSError: if a file cannot be read, there are none, or they change all the time.
    :raises RpcError: IntegrityError for a name that is not UTF-8, or a text file that is too long to be a model's,
        before anything is hashed: hashing may take minutes, and would be wasted.
    """
    recorded = _recorded(folder)
    if recorded is not None:
        return recorded
    for _ in range(_TRIES):
        key = _state(folder)
        if key in _known:
            return _known[key]
        if not key[1]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        for name, size, _ in key[1]:
            _require_usable(name, size)
        rows = [(name, size, file_sha256(folder / name, read)) for name, size, _ in key[1]]
        if _state(folder) == key:  # otherwise it was replaced meanwhile, perhaps by an update
            _known[key] = digest_of(row for row in rows if row[0] != META)
            return _known[key]
    raise OSError(errno.EBUSY, "its files change all the time", str(folder))


def known_digest(folder: Path) -> str | None:
    """Return the same as :func:`model_digest` if it is known without reading the files, otherwise None.

    :raises OSError: if the folder cannot be accessed.
    """
    return _recorded(folder) or _known.get(_state(folder))


def _state(folder: Path) -> tuple[str, tuple[tuple[str, int, int], ...]]:
    """Return the folder's name and its files: name, size, modification time."""
    rows: list[tuple[str, int, int]] = []
    for path in sorted(map(Path, files_below(folder))):
        inside = path.relative_to(folder)
        if path.name.endswith(_UNPACKING) or any(part.startswith(".") for part in inside.parts):
            continue
        with contextlib.suppress(FileNotFoundError):  # renamed since it was listed
            stat = path.stat()
            if S_ISREG(stat.st_mode):
                rows.append((inside.as_posix(), stat.st_size, stat.st_mtime_ns))
    return str(folder), tuple(rows)


def _require_usable(name: str, size: int) -> None:
    path, told = PurePosixPath(name), shown(name)
    why = "" if told == name else "its name is not valid UTF-8"
    if path.suffix in _TEXTS:
        try:
            text_files.require_size(path.name, size)
        except text_files.UnfitError as error:
            why = str(error)
    if why:
        raise RpcError("IntegrityError", f"{told} is refused: {why}.", file=told, files=[told])


def _recorded(folder: Path) -> str | None:
    try:
        digest = msgspec.json.decode(text_files.read(folder / META), type=RecordedDigest).digest
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    # only the store names a folder by its digest; a meta.json that somebody else put there proves nothing
    return digest if digest == f"sha256:{folder.name}" else None


def file_sha256(path: Path, read: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file in hex; ``read`` is called now and then with the number of bytes hashed.

    :raises OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if read is not None:
                read(len(chunk))
    return digest.hexdigest()
