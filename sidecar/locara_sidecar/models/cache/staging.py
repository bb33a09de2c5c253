"""Assembles a model and publishes it: the only code that creates a folder in ``<cache>/models``.

The order makes it safe (see ``store.py``): bytes are synced before they are named by their hash, the tree is synced
before it is named by its digest, and ``meta.json`` is the last file in it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.machine.processes.trees import remove_tree
from locara_sidecar.models.cache import aside, disk, owner
from locara_sidecar.models.cache.digest import META, digest_of
from locara_sidecar.models.cache.store import FORMAT, DerivedFrom, File, Installed, Meta, Origin, Store
from locara_sidecar.models.cache.survey import COPIES, drop_blobs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RACES = 16


class BlobMissingError(Exception):
    """Bytes that existed a moment ago are gone: they were collected."""


class Staging:
    """A model being assembled. If it is left without :meth:`publish`, everything is removed except a download's blobs.

    :param folder: another process's, which waits for this one and removes it afterwards; None creates one.
    :param copies: its bytes are copies of the user's files, so no retry would resume from them.
    :raises OSError: if the cache cannot be written.
    """

    def __init__(self, store: Store, folder: Path | None = None, *, copies: bool = False) -> None:
        store.prepare()
        self.store = store
        self.folder = folder or store.incoming / f"tree-{secrets.token_hex(8)}"
        self.tree = self.folder / "tree"
        self.files: dict[str, File] = {}
        self._own = folder is None
        self._copies = copies
        self._made: list[Path] = []
        self._lock: disk.Lock | None = None
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise

    def _begin(self) -> None:
        if self._own:
            disk.make_folder(self.folder.parent)
            self.folder.mkdir(mode=disk.FOLDER_MODE)
        disk.make_folder(self.tree)
        if self._own:
            # while it is held, gc leaves the folder alone; a killed process's folder is garbage
            self._lock = disk.try_lock(self.folder / "lock", shared=False)
            (self.folder / "lock").write_text(owner.name(), encoding="ascii")  # for where locks do not work
        if self._copies:
            (self.folder / COPIES).touch(mode=disk.FILE_MODE)

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            remove_tree(self.folder)
        if self._lock is not None:
            self._lock.release()
        if self._copies:
            drop_blobs(self.store, self._made, self.folder)
            self._made = []

    def place(self, file: File) -> None:
        """Put a blob into the tree.

        :raises BlobMissingError: if there is no such blob.
        """
        target = self._target(file.path)
        try:
            disk.link_or_copy(self.store.blob(file.sha256), target)
        except FileNotFoundError as error:
            raise BlobMissingError(file.path) from error
        self.files[file.path] = file

    def adopt(self, path: Path, file: File, *, read_only: bool = True) -> None:
        """Add a finished, synced and hashed file: to the tree first, so that gc cannot remove it in between, then as a
        blob.

        :param path: the file, which the caller may delete afterwards.
        :param read_only: False for a file that somebody else has too: its permissions are not ours to change.
        """
        target = self._target(file.path)
        disk.link_or_copy(path, target)
        if read_only:
            disk.set_mode(target, disk.READ_ONLY)
        with contextlib.suppress(FileExistsError):
            blob = self.store.blob(file.sha256)
            disk.link_or_copy(target, blob)
            self._made.append(blob)
        self.files[file.path] = file

    def move(self, path: Path, file: File) -> None:
        """Move a finished, synced and hashed file from this staging's own folder into the tree. No other model will
        ever share it, so it gets no blob and does not outlive the tree.
        """
        target = self._target(file.path)
        os.rename(path, target)
        disk.set_mode(target, disk.READ_ONLY)
        self.files[file.path] = file

    def _target(self, path: str) -> Path:
        target = self.tree.joinpath(*PurePosixPath(path).parts)
        disk.make_folder(target.parent)
        return target

    def publish(
        self, model_id: str, version: str, source: Sequence[Origin], derived_from: DerivedFrom | None = None
    ) -> Installed:
        """Make the model visible, in one step; if the same files are already installed, they only get one more id.

        :param derived_from: makes it a prepared form, which gets no id.
        :raises OSError: if a call fails; the model is not visible then.
        """
        files = sorted(self.files.values(), key=lambda file: PurePosixPath(file.path).parts)
        meta = Meta(
            format=FORMAT,
            ids=[] if derived_from is not None else [model_id],
            version=version,
            digest=digest_of((file.path, file.size, file.sha256) for file in files),
            source=list(source),
            files=files,
            bytes=sum(file.size for file in files),
            derived_from=derived_from,
            installed=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        )
        key = meta.digest.removeprefix("sha256:")
        disk.sync_folder(self.store.blobs)
        disk.sync_tree(self.tree)
        disk.write_new(self.tree / META, msgspec.json.format(msgspec.json.encode(meta), indent=1))
        for _ in range(_RACES):
            there = self.store.entry(key)
            if there is not None and not there.meta.damaged:
                entry = _join(self.store, there, model_id, derived_from)
                if entry is not None:
                    return settled(self.store, entry)
                continue
            taken = os.path.lexists(self.store.models / key)
            if taken and (other := aside.set_aside(self.store, key)) is not None:
                other.free_name()
            with contextlib.suppress(OSError):  # taken meanwhile: look again
                os.rename(self.tree, self.store.models / key)
                self._made = []
                disk.sync_folder(self.store.models)
                break
        entry = self.store.entry(key)
        if entry is None:
            raise RpcError("StorageError", "The model could not be put into the model cache.", errno="EBUSY")
        return entry


def settled(store: Store, entry: Installed) -> Installed:
    """Sync and return an entry that another process may have just published: afterwards its name is on disk."""
    with contextlib.suppress(OSError):  # in a cache that only others may write to
        disk.sync_folder(store.models)
    return entry


def _join(store: Store, there: Installed, model_id: str, derived_from: DerivedFrom | None) -> Installed | None:
    """Make the existing entry also the one to be published; None if it has disappeared meanwhile."""
    if derived_from is None:
        return add_id(store, there, model_id)
    if there.meta.derived_from != derived_from:
        try:
            rewrite(there, msgspec.structs.replace(there.meta, derived_from=derived_from))
        except FileNotFoundError:
            return None
    return store.entry(there.key)


def add_id(store: Store, entry: Installed, model_id: str) -> Installed | None:
    """Install an entry under one more id; None if it has disappeared meanwhile."""
    for _ in range(_RACES):
        if model_id in entry.meta.ids:
            return entry
        try:
            rewrite(entry, msgspec.structs.replace(entry.meta, ids=[*entry.meta.ids, model_id]))
        except FileNotFoundError:
            return None
        # another process may have added an id at the same moment and dropped ours: look again
        again = store.entry(entry.key)
        if again is None:
            return None
        entry = again
    return entry


def rewrite(entry: Installed, meta: Meta) -> None:
    """Replace an entry's ``meta.json``, keeping the time of its last use.

    :raises OSError: if the entry is gone.
    """
    path = entry.folder / META
    disk.write_new(path, msgspec.json.format(msgspec.json.encode(meta), indent=1))
    with contextlib.suppress(OSError):
        os.utime(path, (entry.last_used, entry.last_used))
