"""Removing models and collecting waste: first a plan, pure but for looking (:mod:`locara_sidecar.models.survey`); then,
unless it was only to be shown, its execution. References go before bytes, and a model that any process uses is left
alone.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.engine.frames import PREPARED_LAYOUT
from locara_sidecar.models import disk, staging
from locara_sidecar.models.store import Installed, Store
from locara_sidecar.models.survey import Inode, Survey, abandoned, files_of, inodes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

KEEP_PARTIAL_SECONDS = 7 * 24 * 3600
"""Unfinished files and bytes without a model stay so long for the next try, unless room is asked for."""


class Plan(msgspec.Struct, frozen=True):
    """What will go: whole models, other files and folders; ``bytes`` is what the disk gets back."""

    models: list[Installed]
    waste: list[Path]
    bytes: int


class Removed(msgspec.Struct, frozen=True):
    """What went: models, and the bytes that the disk got back."""

    models: list[Installed]
    bytes: int


def plan_gc(store: Store, max_bytes: int | None = None, *, now: float | None = None) -> Plan:
    """What to collect.

    :param max_bytes: None collects only what no model needs and is old; a number also removes the partial
        downloads and then the models used least recently, until the cache has at most so many bytes. Prepared forms go
        before any model: they can be made again without a network.
    """
    survey = Survey(store)
    now = time.time() if now is None else now
    waste = survey.waste(now - KEEP_PARTIAL_SECONDS)
    digests = {entry.meta.digest for entry in survey.entries}
    idle = _idle(store, survey.entries)
    models = [entry for entry in idle if _stale(entry, digests, now - KEEP_PARTIAL_SECONDS)]
    if max_bytes is not None and survey.total() - survey.freed(models, waste) > max_bytes:
        waste = survey.waste(now + 1)
        # least recently used first
        for entry in sorted(idle, key=lambda entry: entry.derived_from is None):
            if survey.total() - survey.freed(models, waste) <= max_bytes:
                break
            if entry not in models:
                models.append(entry)
    return Plan(models, waste, survey.freed(models, waste))


def _idle(store: Store, entries: Iterable[Installed]) -> list[Installed]:
    """Those that no process uses; who uses a form of a model uses the model."""
    busy = [entry for entry in entries if store.in_use(entry.key)]
    digests = {entry.meta.digest for entry in busy} | {made.digest for entry in busy if (made := entry.derived_from)}
    return [entry for entry in entries if entry.meta.digest not in digests]


def _stale(entry: Installed, digests: set[str], older_than: float) -> bool:
    """Whether a prepared form is of no use to anybody: damaged, or of a model that the cache does not have (it may be
    a folder of a host's) or an earlier layout and unused for long."""
    made = entry.derived_from
    if made is None:
        return False
    lost = made.digest not in digests or made.layout != PREPARED_LAYOUT
    return bool(entry.meta.damaged) or (lost and entry.last_used < older_than)


def plan_remove(store: Store, model_id: str, *, only_prepared: bool = False) -> Plan:
    """What goes with a model, its prepared forms first: without it nobody asks for them. An entry that is installed
    under another id too stays with its forms, and frees nothing.

    :param only_prepared: the forms and not the model.
    :raises RpcError: ModelNotInstalled.
    """
    survey = Survey(store)  # looked at once: between two looks another process may have removed an entry
    entries = [entry for entry in survey.entries if model_id in entry.meta.ids]
    going = [entry for entry in entries if entry.meta.ids == [model_id]]
    theirs = {entry.meta.digest for entry in (entries if only_prepared else going)}
    # a form of a model that is not here, such as a host's own folder, is known by the id that it was made under
    kept = {entry.meta.digest for entry in survey.entries if entry.derived_from is None}
    forms = [
        entry
        for entry in survey.entries
        if (made := entry.derived_from)
        and (made.digest in theirs or (made.model == model_id and made.digest not in kept))
    ]
    if not forms and (only_prepared or not entries):
        what = f"A prepared form of {model_id}" if only_prepared else f"The model {model_id}"
        raise RpcError("ModelNotInstalled", f"{what} is not in the model cache.", model=model_id)
    if only_prepared:
        entries, going = [], []
    return Plan([*forms, *entries], [], survey.freed([*forms, *going], ()))


def remove(store: Store, plan: Plan, model_id: str) -> Removed:
    """Carry out :func:`plan_remove`.

    :raises RpcError: StorageError with ``errno`` EBUSY when a process uses the model.
    """
    busy = RpcError("StorageError", f"The model {model_id} is in use; unload it first.", errno="EBUSY", model=model_id)
    going = [entry for entry in plan.models if entry.derived_from or entry.meta.ids == [model_id]]
    if any(store.in_use(entry.key) for entry in going):
        raise busy  # before its forms go
    done: list[Installed] = []
    for entry in plan.models:
        others = [] if entry.derived_from else [other for other in entry.meta.ids if other != model_id]
        if others:
            with contextlib.suppress(FileNotFoundError):
                staging.rewrite(entry, msgspec.structs.replace(entry.meta, ids=others))
            done.append(entry)
        elif _remove_entry(store, entry):
            done.append(entry)
        else:
            raise busy
    return Removed(done, plan.bytes)


def execute(store: Store, plan: Plan) -> Removed:
    """Carry out :func:`plan_gc`; what came into use meanwhile stays."""
    before = Survey(store).total()
    done = [entry for entry in plan.models if _remove_entry(store, entry)]
    used = set[Inode]()
    if any(path.parent == store.blobs for path in plan.waste):
        survey = Survey(store)  # a tree may have taken one of the blobs since the plan was made
        used = survey.building.union(*survey.trees.values())
    for path in plan.waste:
        if path.parent == store.blobs and not used.isdisjoint(inode for _, inode, _ in files_of(path)):
            continue
        if path.parent == store.incoming and path.suffix in (".part", ".json"):
            _delete_unfinished(path)
        else:
            _delete(path)
    return Removed(done, max(0, before - Survey(store).total()))


def _remove_entry(store: Store, entry: Installed) -> bool:
    """The name, then the bytes; False when the model is in use."""
    store.prepare()
    lock = disk.try_lock(store.locks / entry.key, shared=False)
    if lock is None:
        return False
    with disk.held(lock):
        gone = staging.set_aside(store, entry.key)
    if gone is not None:
        _delete(gone)
    used = set[Inode]().union(*(inodes_of(other.folder) for other in store.entries()))
    for path in sorted(store.incoming.glob("tree-*")):
        used |= inodes_of(path)
    for file in entry.meta.files:
        blob = store.blob(file.sha256)
        if used.isdisjoint(inode for _, inode, _ in files_of(blob)):
            _delete(blob)
    return True


def sweep(store: Store) -> None:
    """Delete what killed processes left half put together."""
    for folder in store.incoming.glob("tree-*"):
        if abandoned(folder):
            _delete(folder)


def _delete_unfinished(path: Path) -> None:
    """An unfinished file or the note beside it, unless somebody has taken it up since the plan was made."""
    lock = disk.try_lock(path.with_suffix(".part"), shared=False, create=False)
    if lock is not None:
        with disk.held(lock):
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
