"""Publishes what an engine has prepared: a model's tree with some components replaced by the engine's own files.

The engine is not trusted with the store, nor is any process that may have outlived it. Its files are opened without
following links and copied; the copies, which it never had access to, are hashed, checked like a download's, and
published.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.machine.processes.trees import files_below
from locara_sidecar.models.cache import disk
from locara_sidecar.models.cache.staging import BlobMissingError, Staging
from locara_sidecar.models.cache.store import DerivedFrom, File
from locara_sidecar.models.checks import check
from locara_sidecar.models.imports import importing
from locara_sidecar.models.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.cache.store import Installed, Store
    from locara_sidecar.models.catalogue import Entry
    from locara_sidecar.models.imports.local import LocalFile

MADE = "made"
"""Name of the folder within a staging folder where the engine writes."""
_CHUNK = 1 << 20
_MOST_FILES = 1000
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC if os.name == "posix" else 0
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC if os.name == "posix" else getattr(os, "O_BINARY", 0)


class Derivation(msgspec.Struct, frozen=True, kw_only=True):
    """What was made.

    :param folder: a staging folder; its creator removes it afterwards.
    :param source: the folder of the model that it was made from, which is kept in use meanwhile.
    :param components: folders of the model that are replaced.
    """

    folder: str
    source: str
    components: list[str]
    derived_from: DerivedFrom


def publish(store: Store, entry: Entry, making: Derivation, tell: Callable[[DownloadProgress], None]) -> Installed:
    """Check, hash and publish what was made from the model of ``entry``.

    :raises RpcError: IntegrityError, ModelIncomplete, ModelNotInstalled, InsufficientDisk, StorageError.
    """
    meter = Meter(entry.id, tell)
    source, folder = Path(making.source), Path(making.folder)
    needed = 0
    try:
        with contextlib.ExitStack() as opened:
            made = _made(folder / MADE, making.components, _most(source, making.components), opened)
            rest, copied = _rest(store, entry, source, making.components)
            check.check_names([*made, *(file.path for file in rest), *(file.path for file in copied)])
            needed = importing.check_room(store, copied, sum(file.size for file in made.values()))
            total = sum(file.size for file in (*made.values(), *copied))
            count = len(made) + len(copied)
            meter.phase("verifying", total, count)
            with Staging(store, folder, copies=True) as staging:
                for path, file in made.items():
                    _take(staging, path, file, meter)
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


class _MadeFile(NamedTuple):
    """An engine's file and its folder's descriptor; the file itself is checked when it is opened."""

    folder: int
    name: str
    size: int


def _made(folder: Path, components: list[str], most: int, opened: contextlib.ExitStack) -> dict[str, _MadeFile]:
    """Return the engine's files by their path in the tree.

    :param most: the maximum of their total size, in bytes.
    :param opened: closes the folders.
    :raises RpcError: IntegrityError for anything but plain files in the components' folders, and for too many bytes.
    """
    found: dict[str, _MadeFile] = {}
    for name in sorted(os.listdir(folder)):
        if name not in components:
            raise check.refused(name, "the engine put it in the wrong place")
        try:
            parent = os.open(folder / name, os.O_RDONLY | _FOLDER)
        except OSError as error:
            raise check.refused(name, "the engine made something that is not a folder") from error
        opened.callback(os.close, parent)
        for file in sorted(os.listdir(parent)):
            path = f"{name}/{file}"
            status = os.stat(file, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise check.refused(path, "the engine made something that is not a plain file")
            found[path] = _MadeFile(parent, file, status.st_size)
            if sum(one.size for one in found.values()) > most or len(found) > _MOST_FILES:
                raise check.refused(path, "the engine made more than the model has")
    return found


def _most(source: Path, components: list[str]) -> int:
    """Return the maximum size, in bytes, of what can be made from a model's components: quantization makes no weights
    longer, not even one-byte ones, except for their scales.
    """
    there = sum(os.stat(path).st_size for name in components for path in files_below(source / name))
    return there + there // 4 + (64 << 20)


def _take(staging: Staging, path: str, made: _MadeFile, meter: Meter) -> None:
    """Put a copy of the engine's file into the tree, hashed; the original is deleted to make room for the next.

    :raises RpcError: IntegrityError if it is not the same file as a moment ago.
    """
    copy = staging.folder / f"copy-{secrets.token_hex(6)}"
    fd = os.open(made.name, os.O_RDONLY | _FILE, dir_fd=made.folder)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # it may be another name of one of the user's files
            raise check.refused(path, "the engine made something that is not a plain file of its own")
        disk.copy_opened(fd, copy, made.size)
    finally:
        os.close(fd)
    os.unlink(made.name, dir_fd=made.folder)
    file = _hashed(path, copy, meter)
    if file.size != made.size:
        raise check.refused(path, "it changed while it was being copied")
    staging.move(copy, file)


def _rest(store: Store, entry: Entry, source: Path, components: list[str]) -> tuple[list[File], list[LocalFile]]:
    """Return the model's other files: those in the store, and those in a host's folder, to be copied."""

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
    """Give a file of the model in the store one more name."""
    try:
        staging.place(file)
    except BlobMissingError:
        staging.adopt(source / file.path, file, read_only=False)


def _hashed(path: str, file: Path, meter: Meter) -> File:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            meter.add(len(chunk))
    meter.add(0, 1)
    return File(path, size, digest.hexdigest())
