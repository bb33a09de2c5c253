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
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from locara_protocol.errors import RpcError, invalid_params
from locara_sidecar.models.cache import collect, disk
from locara_sidecar.models.cache.staging import Staging, settled
from locara_sidecar.models.cache.store import File, Installed, Origin
from locara_sidecar.models.checks import check
from locara_sidecar.models.imports.installed import is_same, other_installed
from locara_sidecar.models.imports.local import LocalFile
from locara_sidecar.models.progress import Meter
from locara_sidecar.weights import weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Entry, Source

_CHUNK = 1 << 20
_MAX_DEPTH = 64  # folders within each other
_SHOWN = 200  # characters of a path
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def import_model(
    store: Store,
    entry: Entry,
    folder: Path,
    tell: Callable[[DownloadProgress], None],
    accept: Callable[[Path], None] = lambda _: None,
    *,
    replace: bool = False,
) -> Installed:
    """Install the model of ``entry`` from ``folder``; if that very one is installed already it is returned as it is.

    :param folder: absolute: diffusers' layout, a snapshot, a model's folder or the root of a Hugging Face cache.
    :param accept: is given the finished folder before it becomes the model, and may refuse it.
    :param replace: put it in the place of another one that is installed under the same id.
    :raises RpcError: InvalidParams when there is no such model, IntegrityError, ModelIncomplete,
        InsufficientDisk, StorageError (with ``errno`` EEXIST where another one is installed), or what ``accept``
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
    """What a failed system call is called on the wire.

    :param needed: bytes that were going to be written, as far as that is known.
    """
    if error.errno in _FULL:
        available = disk.available(store.root)
        message = f"The disk is full: {needed} bytes are needed, {available} are free."
        return RpcError("InsufficientDisk", message, needed=needed, available=available)
    name = errno.errorcode.get(error.errno or 0, "EIO")
    if disk.is_below(error, store.root):
        return RpcError("StorageError", f"The model cache {store.root} cannot be written ({name}).", errno=name)
    which = f": {error.filename}" if error.filename else ""
    return RpcError("StorageError", f"The model could not be imported ({name}){which}.", errno=name)


def find_files(entry: Entry, folder: Path) -> tuple[list[LocalFile], list[Origin]]:
    """The files that are the model of ``entry`` in a folder, and where they came from.

    :raises RpcError: InvalidParams when there is no such model, IntegrityError.
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
            return files, [Origin(repository=entry.sources[0].repository, revision=folder.name)]
        given, folder = folder, folder.parents[2]  # what the model has from other repositories is in the same cache
    files: list[LocalFile] = []
    origins: list[Origin] = []
    placed = [path for source in entry.sources for path in source.place.values()]
    for source in entry.sources:
        own = given is not None and given.parent.parent.name == _cached_as(source)
        snapshot = given if given is not None and own else _find_snapshot(folder, source)
        files += _snapshot(snapshot, source, placed)
        origins.append(Origin(repository=source.repository, revision=snapshot.name))
    return files, origins


# --- a Hugging Face cache --------------------------------------------------------------------


def _cached_as(source: Source) -> str:
    """The folder of a repository in a Hugging Face cache."""
    return "models--" + (source.repository or "").replace("/", "--")


def _find_snapshot(folder: Path, source: Source) -> Path:
    name = _cached_as(source)
    candidates = (folder, folder / name, folder / "hub" / name)
    repository = next((path for path in candidates if (path / "snapshots").is_dir()), None)
    if repository is None or not source.repository:
        message = "The folder is neither a model in diffusers' layout nor a Hugging Face cache with this model."
        if source.repository:  # a model may be made of several, of which others are there
            message = f"{message[:-1]}: there is no {source.repository}."
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


def _snapshot(folder: Path, source: Source, elsewhere: Iterable[str] = ()) -> list[LocalFile]:
    """:param elsewhere: paths of the model's tree that come from other repositories."""
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
    # what a repository has under another name than the model is there twice in a clone of the repository
    placed = {name: path for source in entry.sources for name, path in source.place.items()}
    paths = [path for path in files if _belongs(entry, path) and placed.get(path) not in files]
    for path in paths + _variants(paths, files):
        file = files[path]
        if file.is_symlink():
            raise check.refused(path, "it is a link")
        found.append(LocalFile(path, file, _size(file, path)))
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


def _variants(taken: Collection[str], there: Collection[str]) -> list[str]:
    """What else is taken: for a component that would be without weights, those of a variant such as ``fp16``, which
    the patterns of an entry leave out because a repository has the others beside them."""
    found: list[str] = []
    weighted = {PurePosixPath(path).parent for path in taken if path.endswith(".safetensors")}
    configured = {PurePosixPath(path).parent for path in taken if PurePosixPath(path).name == "config.json"}
    for component in sorted(configured - weighted):
        beside = {PurePosixPath(path).name for path in there if PurePosixPath(path).parent == component}
        for stem in weight_files.STEMS:
            found += [(component / name).as_posix() for name in weight_files.variant_files(stem, beside)]
    return [path for path in found if path not in taken]


def _walk(folder: Path) -> list[Path]:
    """Every file that is not hidden, in a fixed order; folders that are links are not entered."""
    found: list[Path] = []
    left, entered = [(folder, 0)], 0
    while left:
        here, depth = left.pop()
        entered += 1
        if depth > _MAX_DEPTH or entered > check.MAX_FILES:
            shown = os.path.relpath(here, folder)[:_SHOWN]
            raise check.refused(shown, "the folder has too many folders, or they lie too deep")
        folders: list[Path] = []
        with os.scandir(here) as entries:  # what we may not list would look like a model without that part
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
    """:raises RpcError: IntegrityError for a pipe or a device, which might be read for ever."""
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise check.refused(path, "it is not a regular file")
    return about.st_size


# --- taking ----------------------------------------------------------------------------------


def check_room(store: Store, files: list[LocalFile], more: int = 0) -> int:
    """The bytes that are going to be written.

    :param more: so many besides the files.
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
