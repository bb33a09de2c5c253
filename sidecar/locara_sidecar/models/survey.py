"""The cache as it is now, by what the disk holds: which file has which bytes, who else has them, what is in use.

Looks at every file's entry and reads none.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.models import disk
from locara_sidecar.models.store import Installed, Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Inode = tuple[int, int]


class Usage(msgspec.Struct, frozen=True):
    """One installed model: all its bytes, those that another model has too, and whether it is in use."""

    entry: Installed
    bytes: int
    shared: int
    in_use: bool


class Report(msgspec.Struct, frozen=True):
    """The whole cache. ``reclaimable`` is what a ``gc`` down to 0 bytes would free now."""

    bytes: int
    reclaimable: int
    models: list[Usage]


def usage(store: Store) -> Report:
    """How much room the models take."""
    survey = Survey(store)
    models: list[Usage] = []
    for entry in survey.entries:
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
    return Report(survey.total(), survey.freed(free, survey.waste(time.time() + 1)), models)


class Survey:
    """The cache as it is now: which file holds which bytes, counted once whatever the number of its names."""

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
        return sum(self.sizes.values())

    def waste(self, older_than: float) -> list[Path]:
        """Blobs that no tree has, and what was left in ``incoming``, if last changed before ``older_than``."""
        used = self.building.union(*self.trees.values())
        found = [path for path, inode in self.blobs.items() if inode not in used and _changed(path) < older_than]
        with contextlib.suppress(OSError):
            for path in sorted(self.store.incoming.iterdir()):
                if path.is_file():
                    given_up = _changed(path) < older_than and not _being_written(path)
                else:
                    given_up = path.name.startswith("gone-") or abandoned(path)
                if given_up:
                    found.append(path)
        return found

    def freed(self, models: Iterable[Installed], waste: Iterable[Path]) -> int:
        """Bytes that the disk gets back when these go together."""
        going = {entry.key for entry in models}
        stays = self.building.union(*(inodes for key, inodes in self.trees.items() if key not in going))
        gone = set[Inode]().union(*(self.trees[key] for key in going))
        for path in waste:
            gone |= inodes_of(path) if path.is_dir() else {inode for _, inode, _ in files_of(path)}
        # a blob of a removed model is its second name and goes with it
        return sum(self.sizes.get(inode, 0) for inode in gone - stays)


def files_of(folder: Path) -> Iterable[tuple[Path, Inode, int]]:
    """Every file below (or the file itself): path, identity, size."""
    paths = (
        [folder] if folder.is_file() else (folder / base / name for base, _, names in os.walk(folder) for name in names)
    )
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.lstat()
            yield path, (stat.st_dev, stat.st_ino), stat.st_size


def inodes_of(folder: Path) -> set[Inode]:
    return {inode for _, inode, _ in files_of(folder)}


def abandoned(folder: Path) -> bool:
    """Whether the process that was building here has ended."""
    lock = disk.try_lock(folder / "lock", shared=False, create=False)
    if lock is None:
        return False
    lock.release()
    return _changed(folder) < time.time() - 60  # a moment to take the lock, or to live without any


def _being_written(path: Path) -> bool:
    if path.suffix != ".part":
        return path.with_suffix(".part").exists() and _being_written(path.with_suffix(".part"))
    lock = disk.try_lock(path, shared=False, create=False)
    if lock is None:
        return True
    lock.release()
    return False


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")
