"""The cache as it is on disk now: which file holds which bytes, which others share them, what is in use.

Stats every file and reads none.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.machine.processes.trees import files_below
from locara_sidecar.models.cache import disk, owner, partial
from locara_sidecar.models.cache.digest import META
from locara_sidecar.models.cache.store import STRANGERS_SECONDS, Installed, Store, is_key
from locara_sidecar.weights import text_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Inode = tuple[int, int]

COPIES = "copies"
"""A file in the folder of a model being assembled, if its bytes are of no use to the next attempt."""


class Usage(msgspec.Struct, frozen=True):
    """One installed model: all its bytes, those shared with another model, and whether it is in use."""

    entry: Installed
    bytes: int
    shared: int
    in_use: bool


class Report(msgspec.Struct, frozen=True):
    """The whole cache. ``reclaimable`` is what a ``gc`` down to 0 bytes would free now."""

    bytes: int
    reclaimable: int
    models: list[Usage]


def usage(store: Store, only: Collection[str] | None = None) -> Report:
    """Report how much space the models take.

    :param only: ids of models, to report only these and their prepared forms. None for the whole cache.
    """
    survey = Survey(store)
    models: list[Usage] = []
    for entry in survey.entries:
        if only is not None and not any(name in only for name in entry.names):
            continue
        own = survey.trees[entry.key]
        others = set[Inode]().union(*(inodes for key, inodes in survey.trees.items() if key != entry.key))
        models.append(
            Usage(
                entry=entry,
                bytes=sum(survey.sizes.get(inode, 0) for inode in own),
                shared=sum(survey.sizes.get(inode, 0) for inode in own & others),
                in_use=store.in_use(entry.key),
            )
        )
    free = [model.entry for model in models if not model.in_use]
    if only is None:
        return Report(survey.total(), survey.freed(free, survey.waste(time.time() + 1)), models)
    theirs = set[Inode]().union(*(survey.trees[model.entry.key] for model in models))
    return Report(sum(survey.sizes.get(inode, 0) for inode in theirs), survey.freed(free, ()), models)


class Survey:
    """A snapshot of the cache: which file holds which bytes, counted once however many names it has."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.entries = store.entries()
        self.trees = {entry.key: inodes_of(entry.folder) for entry in self.entries}
        self.blobs = {path: inode for path, inode, _ in files_of(store.blobs)}
        self.sizes: dict[Inode, int] = {}
        for folder in (store.blobs, store.models, store.incoming):
            self.sizes.update({inode: size for _, inode, size in files_of(folder)})
        building = set[Inode]()
        for folder in store.incoming.glob("tree-*"):
            if not abandoned(folder):
                building |= inodes_of(folder)
        self.building = building

    def total(self) -> int:
        """Bytes of all files, each counted once."""
        return sum(self.sizes.values())

    def waste(self, older_than: float) -> list[Path]:
        """Return blobs in no tree and leftovers in ``incoming``, if last changed before ``older_than``, and models
        whose removal was interrupted.
        """
        used = self.building.union(*self.trees.values())
        found = [path for path, inode in self.blobs.items() if inode not in used and _changed(path) < older_than]
        with contextlib.suppress(OSError):
            for path in sorted(self.store.incoming.iterdir()):
                if path.is_file():
                    given_up = self._given_up(path, older_than)
                else:
                    given_up = self.is_removed(path) or abandoned(path)
                if given_up:
                    found.append(path)
        with contextlib.suppress(OSError):
            found += [path for path in sorted(self.store.models.iterdir()) if half_removed(path)]
        return found

    def is_removed(self, path: Path) -> bool:
        """Whether waste is a removed model, of which only the bytes are left."""
        return path.parent == self.store.models or path.name.startswith("gone-")

    def _given_up(self, path: Path, older_than: float) -> bool:
        """Whether nobody will resume an unfinished file: it is old, or the finished file exists."""
        part = path.with_suffix(".part")
        who = partial.writer(part) if part.exists() else "none"
        if who == "alive":
            return False
        if who == "none" and (self.store.blobs / partial.key_of(path)) in self.blobs:
            return True
        return _changed(path) < (older_than if who == "none" else min(older_than, time.time() - STRANGERS_SECONDS))

    def freed(self, models: Iterable[Installed], waste: Iterable[Path]) -> int:
        """Return the disk space, in bytes, that removing all of these together frees."""
        going = {entry.key for entry in models}
        stays = self.building.union(*(inodes for key, inodes in self.trees.items() if key not in going))
        gone = set[Inode]().union(*(self.trees[key] for key in going))
        waste = set(waste)
        blobs = {inode for path, inode in self.blobs.items() if path not in waste}
        for path in waste:
            gone |= inodes_of(path) - (set() if self.is_removed(path) else blobs)
        # a blob of a removed model is its second name and is removed with it
        return sum(self.sizes.get(inode, 0) for inode in gone - stays)


def files_of(folder: Path) -> Iterable[tuple[Path, Inode, int]]:
    """Return every file below (or the file itself): path, identity, size."""
    paths = [folder] if folder.is_file() else map(Path, files_below(folder))
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.lstat()
            yield path, (stat.st_dev, stat.st_ino), stat.st_size


def inodes_of(folder: Path) -> set[Inode]:
    """Return the files below a folder, each once however many names it has."""
    return {inode for _, inode, _ in files_of(folder)}


def drop_blobs(store: Store, blobs: Iterable[Path], but: Path | None = None) -> None:
    """Delete blobs that are in no tree, finished or not. A process that was about to use one finds it gone, and has it
    made again.

    :param but: the folder of a tree that is being given up.
    """
    blobs = list(blobs)
    if not blobs:
        return
    used = set[Inode]().union(*(inodes_of(entry.folder) for entry in store.entries()))
    for folder in sorted(store.incoming.glob("tree-*")):
        if folder != but:
            used |= inodes_of(folder)
    for blob in blobs:
        if used.isdisjoint(inode for _, inode, _ in files_of(blob)):
            with contextlib.suppress(OSError):
                blob.unlink()


def half_removed(folder: Path) -> bool:
    """Whether a killed process has left this folder in ``models`` without its ``meta.json`` (``aside.py``)."""
    ours = is_key(folder.name) and folder.is_dir() and not folder.is_symlink()
    if not ours:
        return False
    try:
        os.lstat(folder / META)
    except FileNotFoundError:
        # somebody may be about to put it back, or to copy a cache here: meta.json need not be copied first
        newest = max(map(_changed, (folder, *folder.rglob("*"))))
        return newest < time.time() - STRANGERS_SECONDS
    except OSError:
        pass
    return False


def abandoned(folder: Path) -> bool:
    """Whether the process that was assembling a model here has ended."""
    lock = disk.probe(folder / "lock")
    if lock == "held":
        return False
    try:
        named = text_files.read(folder / "lock").decode("ascii", errors="replace")
    except (OSError, text_files.UnfitError):
        named = ""  # it is being created or deleted right now
    state = owner.state(named)
    if state in ("alive", "ended"):
        return state == "ended"
    if lock == "free" and (state == "neighbour" or not named):
        return _changed(folder) < time.time() - 60  # allow a moment to take the lock
    newest = max((_changed(path) for path, _, _ in files_of(folder)), default=_changed(folder))
    return max(newest, _changed(folder)) < time.time() - STRANGERS_SECONDS


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")
