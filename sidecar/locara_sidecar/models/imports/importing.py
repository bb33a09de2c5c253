"""Imports a model that is already on this machine: a folder in diffusers' layout, or a Hugging Face cache.

Avoids a second copy if that is safe: hard links only from a Hugging Face cache, whose blobs nobody edits; from
elsewhere a clone if the file system supports it, else a copy. Everything is hashed and checked like a download.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.machine import disk_space
from locara_sidecar.models.cache import collect, disk
from locara_sidecar.models.cache.digest import META
from locara_sidecar.models.cache.staging import Staging, settled
from locara_sidecar.models.cache.store import File, Installed, Origin
from locara_sidecar.models.checks import check
from locara_sidecar.models.imports.installed import from_a_cache, is_same, other_installed
from locara_sidecar.models.imports.local import LocalFile
from locara_sidecar.models.progress import Meter
from locara_sidecar.weights import text_files, weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Entry, Source

_CHUNK = 1 << 20
_MAX_DEPTH = 64  # nested folders
_SHOWN = 200  # characters of a path
_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


def import_model(
    store: Store,
    entry: Entry,
    folder: Path,
    tell: Callable[[DownloadProgress], None],
    accept: Callable[[Path], None] = lambda _: None,
    *,
    replace: bool = False,
) -> Installed:
    """Install the model of ``entry`` from ``folder``; if the same one is installed already, it is returned as it is.

    :param folder: absolute: diffusers' layout, a snapshot, a model's folder or the root of a Hugging Face cache.
    :param accept: called with the finished folder before it becomes the model; raises to refuse it.
    :param replace: replace another model that is installed under the same id.
    :raises RpcError: InvalidParams if there is no such model, IntegrityError, ModelIncomplete,
        InsufficientDisk, StorageError (with ``errno`` EEXIST if another one is installed), or what ``accept``
        raises.
    """
    meter = Meter(entry.id, tell)
    meter.phase("resolving")
    needed = 0
    try:
        files, origins = find_files(entry, folder)
        check.check_names(file.path for file in files)
        there = store.find(entry.id)
        if there is not None and is_same(there, files, meter):
            return settled(store, there)
        if there is not None and not replace:
            raise other_installed(entry.id, there)
        collect.sweep(store)
        for file in files:  # refusing a file must not take as long as copying it
            check.check_file(folder, file.path, file.file)
        with Staging(store, copies=True) as staging:
            total = sum(file.size for file in files)
            needed = check_room(store, files)
            meter.phase("downloading", total, len(files))
            for file in files:
                staged = take(staging, file, meter)
                if (other := entry.lookalikes.get(staged.sha256)) is not None:
                    raise check.refused(file.path, f"it is {other}, which {entry.id} would run as the wrong model")
                check.check_file(staging.tree, staged.path)
            meter.phase("verifying", total, len(files), total, len(files))
            check.check_complete(staging.tree, staging.files)
            accept(staging.tree)
            meter.phase("publishing", total, len(files), total, len(files))
            imported = staging.publish(entry.id, entry.version, origins)
        if there is not None:
            collect.supersede(store, entry.id, imported)
        return imported
    except OSError as error:
        raise storage_error(store, error, needed) from error


def storage_error(store: Store, error: OSError, needed: int) -> RpcError:
    """Map a failed system call to its wire error.

    :param needed: bytes that were to be written, as far as known.
    """
    if error.errno in disk_space.FULL:
        available = disk.available(store.root)
        message = disk_space.why_full(error.errno, store.root, needed, available)
        return RpcError("InsufficientDisk", message, needed=needed, available=available)
    name = errno.errorcode.get(error.errno or 0, "EIO")
    if disk.is_below(error, store.root):
        return RpcError("StorageError", f"The model cache {store.root} cannot be written ({name}).", errno=name)
    which = f": {error.filename}" if error.filename else ""
    return RpcError("StorageError", f"The model could not be imported ({name}){which}.", errno=name)


def find_files(entry: Entry, folder: Path) -> tuple[list[LocalFile], list[Origin]]:
    """Return the files in a folder that make up the model of ``entry``, and where they came from.

    :raises RpcError: InvalidParams if there is no such model, IntegrityError.
    """
    if not folder.is_dir():
        if folder.exists():
            message = f"{folder} is not a folder; import a folder in diffusers' layout or a Hugging Face cache."
            raise invalid_params("$.from", message)
        raise invalid_params("$.from", f"There is no folder {folder}.")
    given: Path | None = None
    if (folder / "model_index.json").is_file():
        if _blobs_of(folder) is None:
            return _plain(entry, folder), [Origin(imported=True)]
        if len(entry.sources) == 1:
            files = _snapshot(folder, entry.sources[0])
            return files, [_origin(entry.sources[0], folder)]
        given, folder = folder, folder.parents[2]  # files from the model's other repositories are in the same cache
    files: list[LocalFile] = []
    origins: list[Origin] = []
    placed = [path for source in entry.sources for path in source.place.values()]
    for source in entry.sources:
        own = given is not None and given.parent.parent.name == _cached_as(source)
        snapshot = given if given is not None and own else _find_snapshot(folder, source)
        files += _snapshot(snapshot, source, placed)
        origins.append(_origin(source, snapshot))
    return files, origins


# --- a Hugging Face cache --------------------------------------------------------------------


def _cached_as(source: Source) -> str:
    """Return a repository's folder name in a Hugging Face cache."""
    return "models--" + (source.repository or "").replace("/", "--")


def _find_snapshot(folder: Path, source: Source) -> Path:
    name = _cached_as(source)
    candidates = (folder, folder / name, folder / "hub" / name)
    repository = next((path for path in candidates if _is_own_folder(path / "snapshots")), None)
    if repository is None or not source.repository:
        message = "The folder is neither a model in diffusers' layout nor a Hugging Face cache with this model."
        if source.repository:  # of a model made up of several, others may be there
            message = f"{message[:-1]}: there is no {source.repository}."
        raise invalid_params("$.from", message)
    wanted = [source.revision or ""]
    for ref in (source.revision or "main", "main"):
        with contextlib.suppress(OSError, ValueError):  # none, or not the name of a commit
            wanted.append(text_files.read(repository / "refs" / ref).decode("ascii").strip())
    snapshots = {path.name: path for path in sorted((repository / "snapshots").iterdir()) if _is_own_folder(path)}
    for revision in wanted:
        if revision in snapshots:
            return snapshots[revision]
    if len(snapshots) == 1:
        return next(iter(snapshots.values()))
    raise invalid_params("$.from", f"The cache has {len(snapshots)} revisions of {source.repository}; name a snapshot.")


def _blobs_of(snapshot: Path) -> Path | None:
    """Return the folder that a snapshot's links lead to, if it is one."""
    blobs = snapshot.parent.parent / "blobs"
    return blobs if snapshot.parent.name == "snapshots" and _is_own_folder(blobs) else None


def _is_own_folder(path: Path) -> bool:
    """Whether it is a folder and no link: one in its place could lead to the user's files, which would become the
    model's.
    """
    return path.is_dir() and not path.is_symlink()


def _origin(source: Source, snapshot: Path) -> Origin:
    """Return where a snapshot's files came from; its folder's name is recorded only if it can be that of a commit."""
    revision = snapshot.name if _REVISION.fullmatch(snapshot.name) else None
    return Origin(repository=source.repository, revision=revision)


def _snapshot(folder: Path, source: Source, elsewhere: Iterable[str] = ()) -> list[LocalFile]:
    """List a snapshot's files.

    :param elsewhere: paths in the model's tree that come from other repositories.
    """
    blobs = _blobs_of(folder)
    found: list[LocalFile] = []
    files = {file.relative_to(folder).as_posix(): file for file in _walk(folder)}
    names = [name for name in files if _matches(source, name)]
    for name in names + _variants([*names, *elsewhere], files):
        file = files[name]
        target = Path(os.path.realpath(file))
        if file.is_symlink() and (blobs is None or target.parent != Path(os.path.realpath(blobs))):
            raise check.refused(name, "it is a link that leads out of the cache")
        sha256 = target.name if file.is_symlink() and len(target.name) == 64 else None
        path = source.place.get(name, name)
        found.append(LocalFile(path, target, _size(target, name), sha256, linked=file.is_symlink()))
    return found


# --- a folder in diffusers' layout -------------------------------------------------------------


def _plain(entry: Entry, folder: Path) -> list[LocalFile]:
    found: list[LocalFile] = []
    files = {file.relative_to(folder).as_posix(): file for file in _walk(folder)}
    if META in files and from_a_cache(folder):
        del files[META]
    # in a clone of the repository, a file that the model places under another name exists twice
    placed = {name: path for source in entry.sources for name, path in source.place.items()}
    paths = [path for path in files if _belongs(entry, path) and placed.get(path) not in files]
    for path in paths + _variants(paths, files):
        file = files[path]
        if file.is_symlink():
            raise check.refused(path, "it is a link")
        found.append(LocalFile(path, file, _size(file, path)))
    return found


def _belongs(entry: Entry, path: str) -> bool:
    """Whether a path in the finished tree belongs to the model; without patterns, every allowed file does."""
    if not any(source.files for source in entry.sources):
        return PurePosixPath(path).suffix in check.ALLOWED
    return any(path in source.place.values() or _matches(source, path) for source in entry.sources)


def _matches(source: Source, path: str) -> bool:
    if not source.files:
        return PurePosixPath(path).suffix in check.ALLOWED
    excluded = any(fnmatch.fnmatchcase(path, pattern) for pattern in source.exclude)
    return not excluded and any(fnmatch.fnmatchcase(path, pattern) for pattern in source.files)


def _variants(taken: Collection[str], there: Collection[str]) -> list[str]:
    """Return additional files for components that would have no weights: those of a variant such as ``fp16``, which an
    entry's patterns leave out because the repository has them next to the regular ones.
    """
    found: list[str] = []
    weighted = {PurePosixPath(path).parent for path in taken if path.endswith(".safetensors")}
    configured = {PurePosixPath(path).parent for path in taken if PurePosixPath(path).name == "config.json"}
    for component in sorted(configured - weighted):
        beside = {PurePosixPath(path).name for path in there if PurePosixPath(path).parent == component}
        for stem in weight_files.STEMS:
            found += [(component / name).as_posix() for name in weight_files.variant_files(stem, beside)]
    return [path for path in found if path not in taken]


def _walk(folder: Path) -> list[Path]:
    """Return every file that is not hidden, in a fixed order; links to folders are not followed."""
    found: list[Path] = []
    left, entered = [(folder, 0)], 0
    while left:
        here, depth = left.pop()
        entered += 1
        if depth > _MAX_DEPTH or entered > check.MAX_FILES:
            shown = os.path.relpath(here, folder)[:_SHOWN]
            raise check.refused(shown, "the folder has too many folders, or they lie too deep")
        folders: list[Path] = []
        with os.scandir(here) as entries:  # a folder that we may not list would look like a missing component
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                is_folder = entry.is_dir()
                if is_folder and not entry.is_symlink():
                    folders.append(Path(entry.path))
                elif not is_folder:
                    found.append(Path(entry.path))
                    if len(found) > check.MAX_FILES:
                        raise check.refused(str(found[-1].relative_to(folder)), "the folder has too many files")
        left += [(path, depth + 1) for path in folders]
    return sorted(found)


def _size(file: Path, path: str) -> int:
    """Return a file's size.

    :raises RpcError: IntegrityError for a pipe or a device, which might be read forever.
    """
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise check.refused(path, "it is not a regular file")
    return about.st_size


# --- taking ----------------------------------------------------------------------------------


def check_room(store: Store, files: list[LocalFile], more: int = 0) -> int:
    """Return the bytes that are going to be written.

    :param more: bytes in addition to the files.
    :raises RpcError: InsufficientDisk.
    """
    device = store.incoming.stat().st_dev
    needed = more + sum(file.size for file in files if not (file.linked and file.file.stat().st_dev == device))
    available = disk.available(store.incoming)
    if needed > available:
        message = f"The model needs {needed} bytes of disk space; {available} are free."
        raise RpcError("InsufficientDisk", message, needed=needed, available=available)
    return needed


def take(staging: Staging, local: LocalFile, meter: Meter) -> File:
    """Put a file into the tree, hashed."""
    if local.linked:
        file = File(local.path, local.size, _hashed(local, local.file, meter))
        disk.sync_path(local.file)  # it may have been written a moment ago without a sync
        staging.adopt(local.file, file, read_only=False)
        return file
    temporary = staging.tree.parent / f"copy-{secrets.token_hex(6)}"
    disk.copy(local.file, temporary)
    try:
        # hash the copy, not the original, which may still change
        file = File(local.path, temporary.stat().st_size, _hashed(local, temporary, meter))
        staging.adopt(temporary, file)
    finally:
        temporary.unlink()
    return file


def _hashed(local: LocalFile, file: Path, meter: Meter) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            meter.add(len(chunk))
    meter.add(0, 1)
    if local.announced is not None and digest.hexdigest() != local.announced:
        raise check.refused(local.path, "its bytes do not match its name in the cache")
    return digest.hexdigest()
