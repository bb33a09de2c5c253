"""Removes models and collects garbage: first a plan, which only looks (``survey.py``), then its execution, unless it
was a dry run. References are removed before bytes, and a model that any process uses is left alone.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.ipc.frames import PREPARED_LAYOUT
from locara_sidecar.machine.processes.trees import remove_tree
from locara_sidecar.models.cache import aside, disk, staging
from locara_sidecar.models.cache.store import Installed, Store
from locara_sidecar.models.cache.survey import (
    COPIES,
    Inode,
    Survey,
    abandoned,
    drop_blobs,
    files_of,
    half_removed,
    inodes_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

KEEP_PARTIAL_SECONDS = 7 * 24 * 3600
"""How long unfinished files and bytes without a model are kept for the next attempt, unless space is requested."""


class Plan(msgspec.Struct, frozen=True):
    """What to remove: whole models, other files and folders; ``bytes`` is the disk space freed."""

    models: list[Installed]
    waste: list[Path]
    bytes: int


class Removed(msgspec.Struct, frozen=True):
    """What was removed: models, and the disk space freed, in bytes."""

    models: list[Installed]
    bytes: int


def plan_gc(store: Store, max_bytes: int | None = None, *, now: float | None = None) -> Plan:
    """Decide what to collect.

    :param max_bytes: None collects only old data that no model needs; a number also removes partial downloads and then
        the least recently used models, until the cache is no larger than that. Prepared forms are removed before any
        model: they can be made again without a network.
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
    """Return those that no process uses; whoever uses a form of a model uses the model."""
    busy = [entry for entry in entries if store.in_use(entry.key)]
    digests = {entry.meta.digest for entry in busy} | {made.digest for entry in busy if (made := entry.derived_from)}
    return [entry for entry in entries if entry.meta.digest not in digests]


def _stale(entry: Installed, digests: set[str], older_than: float) -> bool:
    """Whether an entry is useless: a model that another replaced under its id, or a prepared form that is damaged, or
    one that has not been used for long and whose layout is outdated or whose model is not in the cache (it may be a
    host's folder).
    """
    made = entry.derived_from
    if made is None:
        return not entry.meta.ids
    lost = made.digest not in digests or made.layout != PREPARED_LAYOUT
    return bool(entry.meta.damaged) or (lost and entry.last_used < older_than)


def plan_remove(store: Store, model_id: str, *, only_prepared: bool = False) -> Plan:
    """Decide what to remove for a model: first its prepared forms, which are useless without it. An entry that is also
    installed under another id stays with its forms, and frees nothing.

    :param only_prepared: remove the forms but not the model.
    :raises RpcError: ModelNotInstalled.
    """
    survey = Survey(store)  # a single look: between two, another process might remove an entry
    entries = [entry for entry in survey.entries if model_id in entry.meta.ids]
    going = [entry for entry in entries if entry.meta.ids == [model_id]]
    theirs = {entry.meta.digest for entry in (entries if only_prepared else going)}
    # forms of a model that is not here, such as a host's own folder, are found by the id they were made under
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
    """Execute :func:`plan_remove`.

    :raises RpcError: StorageError with ``errno`` EBUSY if a process uses the model.
    """
    busy = RpcError("StorageError", f"The model {model_id} is in use; unload it first.", errno="EBUSY", model=model_id)
    going = [entry for entry in plan.models if entry.derived_from or entry.meta.ids == [model_id]]
    if any(store.in_use(entry.key) for entry in going):
        raise busy  # before its forms are removed
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


def supersede(store: Store, model_id: str, by: Installed) -> None:
    """Take an id away from every other entry, now that ``by`` is installed under it. Entries without another id are
    removed with their prepared forms; those in use are left to the next gc.
    """
    entries = store.entries()
    for entry in entries:
        if model_id not in entry.meta.ids or entry.key == by.key:
            continue
        others = [other for other in entry.meta.ids if other != model_id]
        try:
            staging.rewrite(entry, msgspec.structs.replace(entry.meta, ids=others))
        except FileNotFoundError:
            continue
        if not others:
            forms = [form for form in entries if (made := form.derived_from) and made.digest == entry.meta.digest]
            busy = [one for one in (*forms, entry) if store.in_use(one.key)]
            for one in () if busy else (*forms, entry):
                _remove_entry(store, one)


def execute(store: Store, plan: Plan) -> Removed:
    """Execute :func:`plan_gc`; what has come into use meanwhile is kept."""
    before = Survey(store).total()
    done = [entry for entry in plan.models if _remove_entry(store, entry)]
    used = set[Inode]()
    if any(path.parent == store.blobs for path in plan.waste):
        survey = Survey(store)  # a tree may have started to use one of the blobs since the plan was made
        used = survey.building.union(*survey.trees.values())
    for path in plan.waste:
        if path.parent == store.blobs and not used.isdisjoint(inode for _, inode, _ in files_of(path)):
            continue
        if path.parent == store.models or path.name.startswith("gone-"):
            _finish_removal(store, path)
            continue
        _delete(path)  # a process that resumes an unfinished file renames it first
    return Removed(done, max(0, before - Survey(store).total()))


def _remove_entry(store: Store, entry: Installed) -> bool:
    """Remove the name, then the bytes; False if the model is in use."""
    store.prepare()
    with contextlib.ExitStack() as locks:
        if not _locked(store, entry.key, entry.folder, locks):
            return False
        gone = aside.set_aside(store, entry.key)
        # a new user marks the model and then looks for its name, so one of the two processes has seen the other
        if gone is not None and store.marked(entry.key, _heard(store, entry.key)):
            try:
                gone.put_back()
            except OSError:  # the same model was installed again meanwhile
                pass
            else:
                with contextlib.suppress(OSError):  # it is there again: nothing of it may be deleted
                    disk.sync_folder(store.models)
                return False
    if gone is not None:
        gone.delete()
    drop_blobs(store, [store.blob(file.sha256) for file in entry.meta.files])
    return True


def _locked(store: Store, key: str, folder: Path, locks: contextlib.ExitStack) -> bool:
    """Lock a model against every use; False if somebody uses it."""
    for path in (store.locks / key, folder):  # processes that may only read the cache lock the folder
        lock = disk.try_lock(path, shared=False, create=path.parent == store.locks)
        if lock is None:
            return False
        locks.callback(lock.release)
    return not store.marked(key, _heard(store, key))


def _finish_removal(store: Store, folder: Path) -> None:
    """Delete what an interrupted removal has left, blobs included; in ``models``, nothing that a process uses."""
    inodes = inodes_of(folder)
    if folder.parent == store.models:
        with contextlib.ExitStack() as locks:
            if not _locked(store, folder.name, folder, locks) or not half_removed(folder):
                return
            if not aside.finish(folder):
                return
    else:
        remove_tree(folder)
    drop_blobs(store, [path for path, inode, _ in files_of(store.blobs) if inode in inodes])


def _heard(store: Store, key: str) -> Literal["free", "unknown"]:
    """Return what holding the model's lock proves: nothing, if somebody else could hold it at the same time."""
    return "free" if disk.probe(store.locks / key) == "held" else "unknown"


def sweep(store: Store) -> None:
    """Delete what killed processes left half-finished: their trees, and bytes that no retry would resume from."""
    for folder in store.incoming.glob("tree-*"):
        if abandoned(folder):
            taken = inodes_of(folder) if (folder / COPIES).exists() else set[Inode]()
            _delete(folder)
            drop_blobs(store, [path for path, inode, _ in files_of(store.blobs) if inode in taken])


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
