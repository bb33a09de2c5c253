"""Locara's shared cache of models: what is on the disk, and how it is read.

The format, version 1 (``<cache>`` is ``--cache-dir``; several daemons and versions share it)::

    <cache>/blobs/<sha256>            a file's bytes, once; the name is their SHA-256; read-only
    <cache>/models/<hex digest>/      an installed model, complete: its files are hard links to blobs (copies
                                      where the file system has no links), and meta.json, published last
    <cache>/incoming/<key>.part       an unfinished file; <key>.json beside it holds the validator for If-Range
    <cache>/incoming/tree-<random>/   a model being put together: lock, and tree/ that becomes models/<digest>; with
                                      made/ where an engine writes what it prepares
    <cache>/incoming/gone-<random>/   a model that was removed and whose bytes are being deleted
    <cache>/locks/<hex digest>        flock shared by every process that uses the model

What holds at every moment, whatever is killed:

- A folder in ``models`` is complete. It gets its name by one rename, after everything in it was synced, and
  loses it by one rename before anything in it is deleted (references before bytes).
- A tree needs no blob: each of its files is a link of its own. A blob without a tree is waste, never an error.
- A *prepared form* is a model's tree whose weights an engine has quantized. It is an entry of its own, with its own
  digest; ``derivedFrom`` says which model it was made from, and it has no catalogue id. The files that quantizing
  leaves alone are the model's own, stored once. It is good for that very digest and no other, can be made again, and
  goes before its model goes.
- ``meta.json``'s modification time is when the model was last used, so noting it rewrites nothing.
- No lock is needed for any of this. Locks keep ``gc`` away from models in use and two downloads from one part.

``digest`` is that of ``models/digest.py``. Who writes: ``staging.py`` (publishing), ``collect.py`` (removing).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from locara_sidecar.models import disk
from locara_sidecar.models.digest import META

FORMAT = 1


class File(msgspec.Struct, frozen=True):
    """One file of a model: path with ``/``, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where files came from: a hub repository at a commit, or an import (whose folder is the user's own business)."""

    repository: str | None = None
    revision: str | None = None
    imported: bool = False


class DerivedFrom(msgspec.Struct, frozen=True, kw_only=True):
    """What a prepared form was made from and for: a model's digest (and an id that it had), the engine, its bits and
    computing type, and ``layout``, the number of ``engine/frames.py`` that its tensors are named after."""

    digest: str
    model: str
    engine: str
    quantization: str
    precision: str
    layout: int


class Meta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``meta.json``. ``ids`` are the catalogue ids that are installed with exactly these files.

    :param installed: UTC, as ``2026-11-23T01:44:55Z``.
    :param damaged: paths that ``models.verify`` found wrong; such a model does not count as installed.
    :param derived_from: for a prepared form, which has no ids.
    """

    format: int
    ids: list[str]
    version: str
    digest: str
    source: list[Origin]
    files: list[File]
    bytes: int
    installed: str
    damaged: list[str] = []
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
        """For a prepared form; None for what a catalogue id leads to."""
        return None if self.meta.ids else self.meta.derived_from

    @property
    def names(self) -> list[str]:
        """The models that it is, or is a form of, for people."""
        return self.meta.ids if self.derived_from is None else [self.derived_from.model]


class Store:
    """The cache below ``root``. Reading makes nothing; writers make the folders that they need."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.models = root / "models"
        self.incoming = root / "incoming"
        self.locks = root / "locks"
        self._metas: dict[str, tuple[tuple[int, int], Meta]] = {}

    def prepare(self) -> None:
        """Make the folders, for somebody who is going to write.

        :raises OSError: when they cannot be made.
        """
        folders = (self.blobs, self.models, self.incoming, self.locks)
        if all(folder.is_dir() for folder in folders):
            return
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        disk.sync_folder(self.root)
        with contextlib.suppress(OSError):  # one that we may not read
            disk.sync_folder(self.root.parent)

    def blob(self, sha256: str) -> Path:
        return self.blobs / sha256

    def has_blob(self, sha256: str, size: int) -> bool:
        """Whether the bytes are there. A blob is complete as soon as it has its name."""
        try:
            return self.blob(sha256).stat().st_size == size
        except OSError:
            return False

    def entries(self) -> list[Installed]:
        """Every model that is there, damaged ones too, oldest use first."""
        try:
            names = os.listdir(self.models)
        except OSError:
            return []
        found = [entry for name in names if (entry := self.entry(name)) is not None]
        return sorted(found, key=lambda entry: (entry.last_used, entry.key))

    def entry(self, key: str) -> Installed | None:
        """The model of that digest (hex digits), or None."""
        folder = self.models / key
        try:
            stat = (folder / META).stat()
            state = (stat.st_mtime_ns, stat.st_ino)
            known = self._metas.get(key)
            if known is None or known[0] != state:
                known = state, msgspec.json.decode((folder / META).read_bytes(), type=Meta)
                self._metas[key] = known
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        meta = known[1]
        if meta.format != FORMAT or meta.digest != f"sha256:{key}":
            return None
        return Installed(folder, meta, stat.st_mtime)

    def find(self, model_id: str, *, damaged: bool = False) -> Installed | None:
        """The model installed under a catalogue id, the latest if there are several."""
        found = [
            entry for entry in self.entries() if model_id in entry.meta.ids and (damaged or not entry.meta.damaged)
        ]
        return max(found, key=lambda entry: (not entry.meta.damaged, entry.meta.installed), default=None)

    def forms(self, digest: str | None = None) -> list[Installed]:
        """The prepared forms of the model with that digest, or all; damaged ones left out."""
        entries = [entry for entry in self.entries() if not entry.meta.damaged]
        return [entry for entry in entries if (made := entry.derived_from) and digest in (None, made.digest)]

    # --- in use --------------------------------------------------------------------------

    def use(self, key: str) -> disk.Lock | None:
        """Say that this process uses a model, until the lock is released; None when it is gone already."""
        with contextlib.suppress(OSError):
            self.locks.mkdir(parents=True, exist_ok=True)
        lock = disk.try_lock(self.locks / key, shared=True)
        # looked at after taking the lock: who removes holds the lock while the name goes
        if lock is None or self.entry(key) is None:
            if lock is not None:
                lock.release()
            return None
        with contextlib.suppress(OSError):
            os.utime(self.models / key / META)
        return lock

    def in_use(self, key: str) -> bool:
        """Whether any process, this one included, uses the model now."""
        if not (self.locks / key).exists():
            return False
        lock = disk.try_lock(self.locks / key, shared=False, create=False)
        if lock is None:
            return True
        lock.release()
        return False
