"""Taking a model that is on this machine already: a folder in diffusers' layout, or a Hugging Face cache.

Without a second copy where that is safe: hard links only from a Hugging Face cache, whose blobs nobody edits;
from elsewhere a clone where the file system can, else a copy. Everything is hashed and checked as a download is.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import secrets
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.models import check, disk
from locara_sidecar.models.progress import Meter
from locara_sidecar.models.staging import Staging, settled
from locara_sidecar.models.store import File, Installed, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.catalogue import Entry, Source
    from locara_sidecar.models.store import Store

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class Local(msgspec.Struct, frozen=True):
    """A file to take. ``announced`` is the SHA-256 that a Hugging Face cache names it by, or None.

    :param linked: whether it may be hard linked.
    """

    path: str
    file: Path
    size: int
    announced: str | None = None
    linked: bool = False


def import_model(store: Store, entry: Entry, folder: Path, tell: Callable[[DownloadProgress], None]) -> Installed:
    """Install the model of ``entry`` from ``folder``; one that is installed already is returned as it is.

    :param folder: absolute: diffusers' layout, a snapshot, a model's folder or the root of a Hugging Face cache.
    :raises RpcError: InvalidParams when there is no such model, IntegrityError, ModelIncomplete,
        InsufficientDisk, StorageError.
    """
    there = store.find(entry.id)
    if there is not None:
        return settled(store, there)
    meter = Meter(entry.id, tell)
    meter.phase("resolving")
    needed = 0
    try:
        files, origins = find_files(entry, folder)
        check.check_names(file.path for file in files)
        with Staging(store) as staging:
            total = sum(file.size for file in files)
            needed = check_room(store, files)
            meter.phase("downloading", total, len(files))
            for file in files:
                staged = take(staging, file, meter)
                check.check_file(staging.tree, staged.path)
            meter.phase("verifying", total, len(files), total, len(files))
            check.check_complete(staging.tree, staging.files)
            meter.phase("publishing", total, len(files), total, len(files))
            return staging.publish(entry.id, entry.version, origins)
    except OSError as error:
        raise storage_error(store, error, needed) from error


def storage_error(store: Store, error: OSError, needed: int) -> RpcError:
    """What a failed system call is called on the wire.

    :param needed: bytes that were going to be written, as far as that is known.
    """
    if error.errno in _FULL:
        available = disk.available(store.root)
        message = f"The disk is full: {needed} bytes are needed, {available} are free."
        return RpcError("InsufficientDisk", message, needed=needed, available=available)
    name = errno.errorcode.get(error.errno or 0, "EIO")
    return RpcError("StorageError", f"The model could not be taken from there ({name}).", errno=name)


def find_files(entry: Entry, folder: Path) -> tuple[list[Local], list[Origin]]:
    """The files that are the model of ``entry`` in a folder, and where they came from.

    :raises RpcError: InvalidParams when there is no such model, IntegrityError.
    """
    if not folder.is_dir():
        raise invalid_params("$.from", "There is no such folder.")
    if (folder / "model_index.json").is_file():
        if _blobs_of(folder) is not None and len(entry.sources) == 1:
            files = _snapshot(folder, entry.sources[0])
            return files, [Origin(repository=entry.sources[0].repository, revision=folder.name)]
        return _plain(entry, folder), [Origin(imported=True)]
    files: list[Local] = []
    origins: list[Origin] = []
    for source in entry.sources:
        snapshot = _find_snapshot(folder, source)
        files += _snapshot(snapshot, source)
        origins.append(Origin(repository=source.repository, revision=snapshot.name))
    return files, origins


# --- a Hugging Face cache --------------------------------------------------------------------


def _find_snapshot(folder: Path, source: Source) -> Path:
    name = "models--" + (source.repository or "").replace("/", "--")
    candidates = (folder, folder / name, folder / "hub" / name)
    repository = next((path for path in candidates if (path / "snapshots").is_dir()), None)
    if repository is None or not source.repository:
        message = "The folder is neither a model in diffusers' layout nor a Hugging Face cache that has this model."
        raise invalid_params("$.from", message)
    wanted = [source.revision or ""]
    for ref in (source.revision or "main", "main"):
        reference = repository / "refs" / ref
        if reference.is_file():
            wanted.append(reference.read_text().strip())
    snapshots = {path.name: path for path in sorted((repository / "snapshots").iterdir())}
    for revision in wanted:
        if revision in snapshots:
            return snapshots[revision]
    if len(snapshots) == 1:
        return next(iter(snapshots.values()))
    raise invalid_params("$.from", f"The cache has {len(snapshots)} revisions of {source.repository}; name a snapshot.")


def _blobs_of(snapshot: Path) -> Path | None:
    """The folder that a snapshot's links lead to, if it is one."""
    blobs = snapshot.parent.parent / "blobs"
    return blobs if snapshot.parent.name == "snapshots" and blobs.is_dir() else None


def _snapshot(folder: Path, source: Source) -> list[Local]:
    blobs = _blobs_of(folder)
    found: list[Local] = []
    for file in _walk(folder):
        name = file.relative_to(folder).as_posix()
        if not _matches(source, name):
            continue
        target = Path(os.path.realpath(file))
        if file.is_symlink() and (blobs is None or target.parent != Path(os.path.realpath(blobs))):
            raise check.refused(name, "it is a link that leads out of the cache")
        sha256 = target.name if file.is_symlink() and len(target.name) == 64 else None
        path = source.place.get(name, name)
        found.append(Local(path, target, target.stat().st_size, sha256, linked=file.is_symlink()))
    return found


# --- a folder in diffusers' layout -------------------------------------------------------------


def _plain(entry: Entry, folder: Path) -> list[Local]:
    found: list[Local] = []
    for file in _walk(folder):
        path = file.relative_to(folder).as_posix()
        if not _belongs(entry, path):
            continue
        if file.is_symlink():
            raise check.refused(path, "it is a link")
        found.append(Local(path, file, file.stat().st_size))
    return found


def _belongs(entry: Entry, path: str) -> bool:
    """Whether a path of the finished tree is one of the model's; without patterns, all that a model may have is."""
    if not any(source.files for source in entry.sources):
        return PurePosixPath(path).suffix in check.ALLOWED
    return any(path in source.place.values() or _matches(source, path) for source in entry.sources)


def _matches(source: Source, path: str) -> bool:
    if not source.files:
        return PurePosixPath(path).suffix in check.ALLOWED
    excluded = any(fnmatch.fnmatchcase(path, pattern) for pattern in source.exclude)
    return not excluded and any(fnmatch.fnmatchcase(path, pattern) for pattern in source.files)


def _walk(folder: Path) -> list[Path]:
    """Every file that is not hidden, in a fixed order; folders that are links are not entered."""
    found: list[Path] = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(base, name) for name in sorted(names) if not name.startswith(".")]
        if len(found) > check.MAX_FILES:
            raise check.refused(str(found[-1].relative_to(folder)), "the folder has too many files")
    return found


# --- taking ----------------------------------------------------------------------------------


def check_room(store: Store, files: list[Local]) -> int:
    """The bytes that are going to be written.

    :raises RpcError: InsufficientDisk.
    """
    device = store.incoming.stat().st_dev
    needed = sum(file.size for file in files if not (file.linked and file.file.stat().st_dev == device))
    available = disk.available(store.incoming)
    if needed > available:
        message = f"The model needs {needed} bytes of the disk; {available} are free."
        raise RpcError("InsufficientDisk", message, needed=needed, available=available)
    return needed


def take(staging: Staging, local: Local, meter: Meter) -> File:
    """Put a file into the tree, hashed."""
    if local.linked:
        file = File(local.path, local.size, _hashed(local, local.file, meter))
        disk.sync_path(local.file)  # whoever wrote it a moment ago may have left that to the system
        staging.adopt(local.file, file, read_only=False)
        return file
    temporary = staging.tree.parent / f"copy-{secrets.token_hex(6)}"
    disk.copy(local.file, temporary)
    try:
        # the copy is hashed, not the original: that may change under us
        file = File(local.path, temporary.stat().st_size, _hashed(local, temporary, meter))
        staging.adopt(temporary, file)
    finally:
        temporary.unlink()
    return file


def _hashed(local: Local, file: Path, meter: Meter) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            meter.add(len(chunk))
    meter.add(0, 1)
    if local.announced is not None and digest.hexdigest() != local.announced:
        raise check.refused(local.path, "its bytes are not those that the cache names it by")
    return digest.hexdigest()
