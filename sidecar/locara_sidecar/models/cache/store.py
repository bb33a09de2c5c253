"""Locara's shared cache of models: the format on disk, and how to read it.

The format, version 1 (``<cache>`` is ``--cache-dir``; several daemons and versions share it)::

    <cache>/blobs/<sha256>            a file's bytes, stored once; the name is their SHA-256; read-only
    <cache>/models/<hex digest>/      an installed model, complete: its files are hard links to blobs (copies
                                      if the file system has no links), and meta.json, published last
    <cache>/incoming/<key>.<owner>.<random>.part   an unfinished file, which only <owner> writes (``owner.py``);
                                      .json next to it holds the validator for If-Range
    <cache>/incoming/tree-<random>/   a model being assembled: lock (which names its owner), and tree/ that becomes
                                      models/<digest>; with made/ where an engine writes what it prepares, and
                                      copies if its bytes are deleted with it on failure (``staging.py``)
    <cache>/incoming/gone-<random>/   a removed model whose bytes are being deleted
    <cache>/locks/<hex digest>        flock shared by every process that uses the model; a process that may only
                                      read the cache and finds none flocks the model's folder
    <cache>/locks/<hex digest>.<owner>.<random>    says the same where flock does not work

Invariants, whatever is killed at any moment:

- A folder in ``models`` is complete. It gets its name by one rename, after everything in it was synced, and
  loses it by one rename before anything in it is deleted (references before bytes).
- A tree needs no blob: each of its files is a link of its own. A blob without a tree is garbage, never an error.
- A *prepared form* is a model's tree whose weights an engine has quantized. It is an entry of its own, with its own
  digest; ``derivedFrom`` says which model it was made from, and it has no catalogue id. Files that quantization leaves
  unchanged are the model's own, stored once. It is valid for that exact digest only, can be made again, and is removed
  before its model.
- ``meta.json``'s modification time is when the model was last used, so recording a use rewrites nothing.
- None of this needs a lock. Locks, and owners' names where there are none, keep ``gc`` away from models in use
  and two downloads from doing the same work.

``digest`` is that of ``models/cache/digest.py``. The writers are ``staging.py`` (publishing) and ``collect.py``
(removing).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from locara_sidecar.machine.supported import ENGINES
from locara_sidecar.models.cache import disk, owner
from locara_sidecar.models.cache.digest import META
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("locara.models")

FORMAT = 1
STRANGERS_SECONDS = 24 * 3600.0
"""How long a process on another machine is believed to be alive after it last renewed its mark."""
_LOOKS = 50
_LOOK_SECONDS = 0.002


# other programs write to a shared cache, and what an engine says about a prepared form is recorded here: an entry with
# a value that our own code never writes is skipped right away, instead of causing trouble later
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
_Id = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,127}\Z")]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Text = Annotated[str, msgspec.Meta(max_length=512)]


class File(msgspec.Struct, frozen=True):
    """One file of a model: path with ``/``, size in bytes, SHA-256 in hex."""

    path: _Text
    size: _Size
    sha256: _Sha256

    def __post_init__(self) -> None:
        pure = PurePosixPath(self.path)
        plain = pure.as_posix() == self.path and self.path.isprintable() and not pure.is_absolute()
        if not plain or any(part.startswith(".") for part in pure.parts):
            raise ValueError("a file's path must lie in the model's folder")


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where files came from: a hub repository at a commit, or an import (whose folder is not recorded)."""

    repository: _Text | None = None
    revision: _Text | None = None
    imported: bool = False


class DerivedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """What a prepared form was made from and for: a model's digest (and one of its ids), the engine, its bits and
    compute type, and ``layout``, the version in ``ipc/frames.py`` of its tensor names.
    """

    digest: _Digest
    model: _Id
    engine: str
    quantization: Literal["8bit", "4bit"]
    precision: Literal["float32", "bfloat16", "float16"]
    layout: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError("this version has no such engine")


class Meta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``meta.json``. ``ids`` are the catalogue ids that are installed with exactly these files.

    :param installed: UTC, as ``2026-11-23T01:44:55Z``.
    :param damaged: paths that ``models.verify`` found to be wrong; such a model does not count as installed.
    :param derived_from: for a prepared form, which has no ids.
    """

    format: int
    ids: list[_Id]
    version: _Text
    digest: _Digest
    source: list[Origin]
    files: list[File]
    bytes: _Size
    installed: Annotated[str, msgspec.Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
    damaged: list[_Text] = []
    derived_from: DerivedFrom | None = None


class Installed(msgspec.Struct, frozen=True):
    """A model in the store. ``last_used``: seconds since the epoch."""

    folder: Path
    meta: Meta
    last_used: float

    @property
    def key(self) -> str:
        """The digest's hex digits: the name of the folder and of the lock."""
        return self.folder.name

    @property
    def derived_from(self) -> DerivedFrom | None:
        """Set for a prepared form; None for an entry with a catalogue id."""
        return None if self.meta.ids else self.meta.derived_from

    @property
    def names(self) -> list[str]:
        """Return the names of the models that it is, or is a form of, for people."""
        return self.meta.ids if self.derived_from is None else [self.derived_from.model]


def is_key(name: str) -> bool:
    """Whether a folder with that name could be an entry's."""
    return _SHA256.fullmatch(name) is not None


def latest(entries: Iterable[Installed], *, damaged: bool = False) -> dict[str, Installed]:
    """Return what is installed under each catalogue id, the latest if there are several.

    :param damaged: whether a damaged model counts if there is no intact one.
    """
    found: dict[str, Installed] = {}
    for entry in entries:
        for model_id in entry.meta.ids if damaged or not entry.meta.damaged else ():
            other = found.get(model_id)
            if other is None or _rank(other) < _rank(entry):
                found[model_id] = entry
    return found


def _rank(entry: Installed) -> tuple[bool, str]:
    return not entry.meta.damaged, entry.meta.installed


class Store:
    """The cache below ``root``. Reading creates nothing; writers create the folders that they need."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.models = root / "models"
        self.incoming = root / "incoming"
        self.locks = root / "locks"
        self._metas: dict[str, tuple[tuple[int, int], Meta | None]] = {}

    def prepare(self) -> None:
        """Create the folders, for a process that is going to write.

        :raises OSError: if they cannot be created.
        """
        folders = (self.blobs, self.models, self.incoming, self.locks)
        if all(folder.is_dir() for folder in folders):
            return
        for folder in folders:
            disk.make_folder(folder)
        disk.sync_folder(self.root)
        with contextlib.suppress(OSError):  # an entry that we may not read
            disk.sync_folder(self.root.parent)

    def blob(self, sha256: str) -> Path:
        """Return where the bytes with that SHA-256 are, or would be.

        :raises ValueError: if it is not a hash: as a path it could lead to any of the user's files.
        """
        if _SHA256.fullmatch(sha256) is None:
            raise ValueError("no SHA-256")
        return self.blobs / sha256

    def has_blob(self, sha256: str, size: int) -> bool:
        """Whether the bytes exist. A blob is complete as soon as it has its name."""
        try:
            return self.blob(sha256).stat().st_size == size
        except OSError:
            return False

    def entries(self) -> list[Installed]:
        """Return every existing model, damaged ones too, least recently used first."""
        try:
            names = os.listdir(self.models)
        except OSError:
            return []
        found = [entry for name in names if (entry := self.entry(name)) is not None]
        return sorted(found, key=lambda entry: (entry.last_used, entry.key))

    def entry(self, key: str) -> Installed | None:
        """Return the model with that digest (hex digits); None if there is none, or if it cannot be read, which
        is logged.
        """
        folder = self.models / key
        try:
            stat = (folder / META).stat()
            state = (stat.st_mtime_ns, stat.st_ino)
            known = self._metas.get(key)
            if known is None or known[0] != state:
                known = self._metas[key] = state, _meta(folder, key)
        except OSError:
            return None
        return None if known[1] is None else Installed(folder, known[1], stat.st_mtime)

    def find(self, model_id: str, *, damaged: bool = False) -> Installed | None:
        """Return the model installed under a catalogue id, the latest if there are several."""
        return latest(self.entries(), damaged=damaged).get(model_id)

    def forms(self, digest: str | None = None) -> list[Installed]:
        """Return the prepared forms of the model with that digest, or all; without damaged ones."""
        entries = [entry for entry in self.entries() if not entry.meta.damaged]
        return [entry for entry in entries if (made := entry.derived_from) and digest in (None, made.digest)]

    # --- in use --------------------------------------------------------------------------

    def use(self, key: str) -> disk.Lock | None:
        """Mark a model as used by this process, until the lock is released; None if it is gone already."""
        with contextlib.suppress(OSError):
            disk.make_folder(self.locks)
        lock = self._share(key)
        if lock is None:
            return None
        mark = self.locks / f"{key}.{owner.name()}.{secrets.token_hex(6)}"
        with contextlib.suppress(OSError):
            mark.touch(mode=disk.FILE_MODE, exist_ok=False)
            lock.mark = mark
        # check after taking the lock: a remover holds the lock while it removes the name, or looks for marks afterwards
        if self.entry(key) is None:
            lock.release()
            return None
        with contextlib.suppress(OSError):
            os.utime(self.models / key / META)
        return lock

    def _share(self, key: str) -> disk.Lock | None:
        """Take a shared lock on the model; None if it is being removed."""
        for _ in range(_LOOKS):
            lock = disk.try_lock(self.locks / key, shared=True)
            if lock is not None and lock.empty:  # a cache that we may only read
                lock = disk.try_lock(self.models / key, shared=True, create=False)
            if lock is not None or self.entry(key) is None:
                return lock
            time.sleep(_LOOK_SECONDS)  # somebody may only be checking whether it is in use
        return None

    def in_use(self, key: str) -> bool:
        """Whether any process, including this one, uses the model now."""
        lock = disk.probe(self.locks / key)
        return lock == "held" or disk.probe(self.models / key) == "held" or self.marked(key, lock)

    def marked(self, key: str, lock: Literal["held", "free", "unknown"] = "unknown") -> bool:
        """Whether a process that may be alive has marked the model as used.

        :param lock: the state of the model's lock, which is reliable on this system.
        """
        found = False
        for mark in self.locks.glob(f"{key}.*"):
            state = owner.state(mark.name.split(".")[1])
            if state == "ended" or (state != "alive" and _age(mark) > STRANGERS_SECONDS):
                with contextlib.suppress(OSError):
                    mark.unlink()
            elif state != "neighbour" or lock != "free":
                found = True
        return found


def _meta(folder: Path, key: str) -> Meta | None:
    """Read an entry's ``meta.json``.

    :raises OSError: if it cannot be read now.
    """
    try:
        meta = msgspec.json.decode(text_files.read(folder / META), type=Meta)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        log.warning(
            "a model in the cache was skipped", extra={"fields": {"folder": key[:80], "reason": str(error)[:200]}}
        )
        return None
    if meta.format != FORMAT or meta.digest != f"sha256:{key}":
        return None
    return meta


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
