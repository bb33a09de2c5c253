"""Checks whether the model being imported is installed already, here or in the cache that it was copied from."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.models.cache.digest import META
from locara_sidecar.models.cache.store import Meta
from locara_sidecar.models.checks import check
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from locara_sidecar.models.cache.store import Installed
    from locara_sidecar.models.imports.local import LocalFile
    from locara_sidecar.models.progress import Meter

_CHUNK = 1 << 20


def from_a_cache(folder: Path) -> bool:
    """Whether a folder is a model that was copied out of a cache of ours, and so has the store's own record in it.

    :raises RpcError: IntegrityError for a prepared form: it is not a model, and nothing says which one it was made
        from.
    """
    try:
        record = msgspec.json.decode(text_files.read(folder / META), type=Meta)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return False
    if record.derived_from is not None:
        raise check.refused(META, "this is a prepared form of a model; import the model itself, and prepare it here")
    return True


def is_same(there: Installed, files: Sequence[LocalFile], meter: Meter) -> bool:
    """Whether files are, byte for byte, those of an installed model. Hashes them only if names and sizes match.

    :raises OSError: if one cannot be read.
    """
    known = {file.path: file for file in there.meta.files}
    if {file.path: file.size for file in files} != {path: file.size for path, file in known.items()}:
        return False
    meter.phase("downloading", sum(file.size for file in files), len(files))
    for file in files:
        digest = hashlib.sha256()
        with file.file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
                meter.add(len(chunk))
        meter.add(0, 1)
        if digest.hexdigest() != known[file.path].sha256:
            return False
    return True


def other_installed(model_id: str, there: Installed) -> RpcError:
    """Build the error for another installed model: what it is, and how to replace it."""
    origin = "; ".join(
        f"{one.repository} at {(one.revision or 'its latest commit')[:12]}" if one.repository else "a folder"
        for one in there.meta.source
    )
    message = (
        f"A different {model_id} is already installed from {origin or 'elsewhere'} ({there.meta.digest[:19]}…) and was "
        "left unchanged. To replace it with this one, import with replace (on the command line: --replace)."
    )
    return RpcError("StorageError", message, errno="EEXIST", model=model_id, digest=there.meta.digest)
