"""What is installed on this machine, as found by one look at the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.records import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from locara_sidecar.models.cache.store import Installed
    from locara_sidecar.models.catalogue import Catalogue


class Inventory(Record, frozen=True):
    """An immutable snapshot; for newer information, look again.

    :param folders: of the installed models, by model id.
    :param digests: ``sha256:<hex>`` of installed models, by model id, as far as known without reading the models.
    :param forms: the prepared forms that the engines of this version can load.
    """

    folders: Mapping[str, Path] = msgspec.field(default_factory=dict[str, "Path"])
    digests: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    forms: tuple[Installed, ...] = ()


def take(catalogue: Catalogue, pinned: Collection[str]) -> Inventory:
    """Look at the disk. Blocks: call it off the event loop.

    :param pinned: the models whose digests the manifest names. Only for these is the digest of a host's folder
        determined, because that takes a look at all of its files.
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
    return Inventory(folders, digests, tuple(usable(entries)))


def lost(model_id: str) -> RpcError:
    """An update has left nothing where a model of the sidecar's own was, as one with another Python does."""
    text = f"The sidecar's files were replaced while it ran, and {model_id} is no longer where it was among them."
    return RpcError("EngineUnavailable", f"{text} Start the sidecar anew.", reason="updated", model=model_id)
