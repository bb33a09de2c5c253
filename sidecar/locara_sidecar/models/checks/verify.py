"""Hashes an installed model again. Damaged files are reported, and their bytes are taken out of the store, so
that the next download fetches them again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from locara_protocol import wording
from locara_protocol.errors import RpcError
from locara_sidecar.machine.processes.trees import files_below, shown
from locara_sidecar.models.cache import staging
from locara_sidecar.models.cache.digest import META, model_digest
from locara_sidecar.models.checks import check
from locara_sidecar.models.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.models.cache.store import File, Installed, Store

_CHUNK = 1 << 20
_SHOWN = 5
_MOST_ADDED = 1000
"""How many added files an error names; anybody may add any number of them."""
_LONGEST = 500
"""The longest name of an added file, in characters."""


def verify(
    store: Store,
    entry: Installed,
    model_id: str,
    tell: Callable[[DownloadProgress], None],
    forms: Sequence[Installed] = (),
) -> None:
    """Compare every file of a model, and of its prepared ``forms``, with what was published.

    :raises RpcError: IntegrityError with ``files``, after which the model no longer counts as installed if one of them
        is its own, and ``prepared``, the digests of forms that are no longer used; StorageError if a file cannot be
        read.
    """
    entries = [entry, *forms]
    meter = Meter(model_id, tell)
    meter.phase("verifying", sum(one.meta.bytes for one in entries), sum(len(one.meta.files) for one in entries))
    found = {one.meta.digest: _check(store, one, meter) for one in entries}
    meter.finish()
    paths = sorted(set[str]().union(*found.values()))
    if not paths:
        return
    damaged = [one.meta.digest for one in forms if found[one.meta.digest]]
    raise _damaged(model_id, paths, damaged, own=bool(found[entry.meta.digest]))


def _damaged(model_id: str, paths: list[str], prepared: list[str], *, own: bool) -> RpcError:
    """Build the IntegrityError.

    :param prepared: digests of the forms that have some of the ``paths``; ``own``: whether the model has some.
    """
    whose = model_id if own else f"the prepared form of {model_id}"
    shown = ", ".join(paths[:_SHOWN]) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
    files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
    if len(paths) >= _MOST_ADDED:
        files = f"At least {files}"
    message = f"{files} of {whose} {'differs' if len(paths) == 1 else 'differ'} from what was installed: {shown}."
    if own:
        message += " It can no longer be used; download or import it again."
    error = RpcError("IntegrityError", message, model=model_id, files=paths)
    if prepared:
        error.data["prepared"] = prepared
    return error


def _check(store: Store, entry: Installed, meter: Meter) -> list[str]:
    """Return the damaged paths; an entry with any is taken out of use."""
    wrong = [file for file in entry.meta.files if not _holds(entry.folder, file, meter)]
    extra = _extra(entry)
    if not wrong and not extra:
        return []
    paths = sorted([*(file.path for file in wrong), *extra])
    for file in wrong:
        _withdraw(store, entry, file)
    with contextlib.suppress(FileNotFoundError):
        staging.rewrite(entry, msgspec.structs.replace(entry.meta, damaged=paths))
    return paths


def verify_folder(
    store: Store, folder: Path, model_id: str, tell: Callable[[DownloadProgress], None]
) -> tuple[str, int]:
    """Check a model outside the store, for which nothing is recorded; return its digest and number of files. Its
    prepared forms have records, and are compared with what was published.

    :raises RpcError: IntegrityError naming the file, and ``prepared`` as :func:`verify`; StorageError.
    """
    files = [path for path in sorted(map(Path, files_below(folder))) if path.is_file() and path.suffix in check.ALLOWED]
    meter = Meter(model_id, tell)
    size = sum(path.stat().st_size for path in files)
    meter.phase("verifying", size, len(files))
    try:
        for path in files:
            check.check_file(folder, path.relative_to(folder).as_posix())
            meter.add(0, 1)
        digest = model_digest(folder, meter.add)
    except OSError as error:
        raise _unreadable(error) from error
    forms = store.forms(digest)
    more = sum(one.meta.bytes for one in forms), sum(len(one.meta.files) for one in forms)
    meter.phase("verifying", size + more[0], len(files) + more[1], size, len(files))
    found = {one.meta.digest: _check(store, one, meter) for one in forms}
    meter.finish()
    if paths := sorted(set[str]().union(*found.values())):
        raise _damaged(model_id, paths, [one for one in found if found[one]], own=False)
    return digest, len(files)


def _holds(folder: Path, file: File, meter: Meter) -> bool:
    path = folder / file.path
    digest, size = hashlib.sha256(), 0
    try:
        if path.is_symlink() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                meter.add(len(chunk))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(error) from error
    meter.add(0, 1)
    return digest.hexdigest() == file.sha256


def _extra(entry: Installed) -> list[str]:
    """Return files that do not belong to the model: :data:`_MOST_ADDED` at most, and no more of each name than its
    ``meta.json`` may have.
    """
    known = {file.path for file in entry.meta.files} | {META}
    found: list[str] = []
    for file in files_below(entry.folder):
        path = shown(Path(file).relative_to(entry.folder).as_posix())
        if path in known or path.startswith("."):
            continue
        if len(found) == _MOST_ADDED:
            break
        found.append(wording.shown(path, _LONGEST))
    return found


def _withdraw(store: Store, entry: Installed, file: File) -> None:
    """Remove a blob with the same damaged bytes, so that the next download does not get it."""
    blob = store.blob(file.sha256)
    with contextlib.suppress(OSError):
        same = os.path.samefile(blob, entry.folder / file.path)
        if same or not _holds(store.blobs, msgspec.structs.replace(file, path=file.sha256), Meter("", _nowhere)):
            blob.unlink()


def _nowhere(message: DownloadProgress) -> None:
    pass


def _unreadable(error: OSError) -> RpcError:
    name = errno.errorcode.get(error.errno or 0, "EIO")
    return RpcError("StorageError", f"A file of the model cannot be read ({name}).", errno=name)
