"""Publishing what an engine has prepared: a model's tree with some components replaced by the engine's own.

The engine is not trusted with the store. It wrote into a folder that this code was given once its process had ended, so
that the bytes which are hashed here are the bytes that stay; its files pass the checks of a download.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.models import check, disk, importing
from locara_sidecar.models.progress import Meter
from locara_sidecar.models.staging import BlobMissing, Staging
from locara_sidecar.models.store import DerivedFrom, File

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.catalogue import Entry
    from locara_sidecar.models.store import Installed, Store

MADE = "made"
"""Where the engine writes, in a staging's folder."""
_CHUNK = 1 << 20


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """What was made.

    :param folder: a staging's; whoever made it removes it afterwards.
    :param source: the folder of the model that it was made from, which is kept in use meanwhile.
    :param components: folders of the model that are replaced.
    """

    folder: str
    source: str
    components: list[str]
    derived_from: DerivedFrom


def publish(store: Store, entry: Entry, making: Making, tell: Callable[[DownloadProgress], None]) -> Installed:
    """Check, hash and publish what was made from the model of ``entry``.

    :raises RpcError: IntegrityError, ModelIncomplete, ModelNotInstalled, InsufficientDisk, StorageError.
    """
    meter = Meter(entry.id, tell)
    source, folder = Path(making.source), Path(making.folder)
    needed = 0
    try:
        made = _made(folder / MADE, making.components)
        rest, copied = _rest(store, entry, source, making.components)
        check.check_names([*made, *(file.path for file in rest), *(file.path for file in copied)])
        needed = importing.check_room(store, copied)
        total = sum(file.stat().st_size for file in made.values()) + sum(file.size for file in copied)
        count = len(made) + len(copied)
        meter.phase("verifying", total, count)
        staging = Staging(store, folder)
        for path, file in made.items():
            staging.move(file, _hashed(path, file, meter))
            check.check_file(staging.tree, path)
        for local in copied:
            importing.take(staging, local, meter)
            check.check_file(staging.tree, local.path)
        for file in rest:
            _share(staging, source, file)
        check.check_complete(staging.tree, staging.files)
        meter.phase("publishing", total, count, total, count)
        return staging.publish(entry.id, entry.version, [], making.derived_from)
    except OSError as error:
        raise importing.storage_error(store, error, needed) from error


def _made(folder: Path, components: list[str]) -> dict[str, Path]:
    """The engine's files by their path in the tree.

    :raises RpcError: IntegrityError for anything but plain files in the components' folders.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise check.refused(name, "the engine made something that is no plain file")
        if path.is_file():
            if len(path.relative_to(folder).parts) != 2 or path.parent.name not in components:
                raise check.refused(name, "the engine made it where it was not asked to")
            found[name] = path
    return found


def _rest(store: Store, entry: Entry, source: Path, components: list[str]) -> tuple[list[File], list[importing.Local]]:
    """The model's other files: those that the store has, and those of a folder of the host's, to be copied."""

    def other(path: str) -> bool:
        return path.partition("/")[0] not in components

    if source.parent != store.models:
        files, _ = importing.find_files(entry, source)
        return [], [file for file in files if other(file.path)]
    installed = store.entry(source.name)
    if installed is None or installed.meta.damaged:
        raise RpcError("ModelNotInstalled", f"The model {entry.id} was removed.", model=entry.id)
    return [file for file in installed.meta.files if other(file.path)], []


def _share(staging: Staging, source: Path, file: File) -> None:
    """A file of the model in the store: the same bytes under one more name."""
    try:
        staging.place(file)
    except BlobMissing:
        staging.adopt(source / file.path, file, read_only=False)


def _hashed(path: str, file: Path, meter: Meter) -> File:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            meter.add(len(chunk))
    disk.sync_path(file)
    meter.add(0, 1)
    return File(path, size, digest.hexdigest())
