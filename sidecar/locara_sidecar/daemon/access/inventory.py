"""What is installed on this machine, as found by one look at the disk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.records import Record
from locara_sidecar.daemon.engine_host import program

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Mapping
    from pathlib import Path

    from locara_sidecar.models.cache.store import Installed
    from locara_sidecar.models.catalogue import Catalogue, Entry


class Inventory(Record, frozen=True):
    """An immutable snapshot; for newer information, look again.

    :param folders: of the installed models, by model id.
    :param digests: ``sha256:<hex>`` of installed models, by model id, as far as known without reading the models.
    :param forms: the prepared forms that the engines of this version can load.
    :param expected: see :func:`expected`.
    """

    folders: Mapping[str, Path] = msgspec.field(default_factory=dict[str, "Path"])
    digests: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    forms: tuple[Installed, ...] = ()
    expected: frozenset[str] = frozenset()


def take(catalogue: Catalogue, pinned: Collection[str], *, fake: bool = False) -> Inventory:
    """Look at the disk. Blocks: call it off the event loop.

    :param pinned: the models whose digests the manifest names. Only for these is the digest of a host's folder
        determined, because that takes a look at all of its files.
    :param fake: whether every model counts as installed.
    """
    from locara_sidecar.models.cache.digest import known_digest
    from locara_sidecar.models.cache.store import latest
    from locara_sidecar.models.forms import usable

    entries = [] if catalogue.store is None else catalogue.store.entries()
    installed = latest(entries)
    folders = catalogue.folders(installed)
    digests: dict[str, str] = {}
    for model_id, folder in folders.items():
        if catalogue.own_folder(model_id) is None:
            digests[model_id] = installed[model_id].meta.digest
        elif model_id in pinned:
            try:
                digest = known_digest(folder)
            except OSError:  # if it cannot be inspected, it is unknown; loading it will fail
                continue
            if digest is not None:
                digests[model_id] = digest
    return Inventory(folders, digests, tuple(usable(entries)), expected(catalogue, folders, fake=fake))


def expected(catalogue: Iterable[Entry], folders: Container[str], *, fake: bool) -> frozenset[str]:
    """Return the models that count as installed. A shipped one does even if an update moved it: no other is used."""
    return frozenset(entry.id for entry in catalogue if fake or entry.is_shipped or entry.id in folders)


def digest(model_id: str, folder: Path, read: Callable[[int], object]) -> str:
    """Return the digest of a model in ``folder``. Waits while an update replaces the installation, and the model in it.

    :param read: called now and then with the number of bytes hashed; raising ends the hashing.
    :raises RpcError: ModelIncomplete if a file cannot be read; as :func:`lost`.
    """
    from locara_sidecar.models.cache.digest import model_digest

    own = folder.is_relative_to(sys.prefix)
    try:
        try:
            return model_digest(folder, read)
        except OSError:
            if not own:
                raise
            program.find()
            return model_digest(folder, read)
    except OSError as error:
        if own and not folder.exists():
            raise lost(model_id) from error
        raise RpcError("ModelIncomplete", f"A file of {model_id} cannot be read.", model=model_id) from error


def lost(model_id: str) -> RpcError:
    """Build the error for one of the sidecar's own models that an update (such as one to another Python) moved."""
    text = f"An update replaced the sidecar's files, and {model_id} is no longer where it was."
    return RpcError("EngineUnavailable", f"{text} Restart the sidecar.", reason="updated", model=model_id)
