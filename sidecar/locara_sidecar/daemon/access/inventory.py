"""What is installed on this machine, as one look at the disk found it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_protocol.records import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from locara_sidecar.models.cache.store import Installed
    from locara_sidecar.models.catalogue import Catalogue


class Inventory(Record, frozen=True):
    """A snapshot; it is never changed, and whoever needs a newer one looks again.

    :param folders: of the installed models, by model id.
    :param digests: ``sha256:<hex>`` of installed models, by model id, as far as they are known without reading the
        models.
    :param forms: the prepared forms that the engines of this version can load.
    """

    folders: Mapping[str, Path] = msgspec.field(default_factory=dict[str, "Path"])
    digests: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    forms: tuple[Installed, ...] = ()


def take(catalogue: Catalogue, pinned: Collection[str]) -> Inventory:
    """Look at the disk. It blocks: call it off the event loop.

    :param pinned: the models whose digests the manifest names. To find the digest of a folder of the host's, all its
        files are looked at, and only for these.
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
            except OSError:  # what cannot be looked at is not known; loading it will fail
                continue
            if digest is not None:
                digests[model_id] = digest
    return Inventory(folders, digests, tuple(usable(entries)))
