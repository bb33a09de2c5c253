"""Collection against readers: several processes publish, use, hash, collect and remove the same few models at random.

What must hold: a model that a process uses stays complete until that process releases it; and whatever is visible is
complete. Syncing is left out; needs fork.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from campaigns import kills
from campaigns.processes import children
from campaigns.report import Row
from locara_protocol.errors import RpcError
from locara_sidecar.models.cache import collect, disk, survey
from locara_sidecar.models.cache.digest import file_sha256
from locara_sidecar.models.cache.store import Installed, Store
from support.granted_folders import NoSync
from support.model_store import whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROCESSES = 4
_TOLD = struct.Struct("<II")  # operations and faults, from each process at its end
_HELD = 3


class BrokenError(Exception):
    """A model in use disappeared or is damaged."""


class Reader:
    """One process's part: it holds up to a few models, and keeps checking them while others collect."""

    def __init__(self, store: Store, seed: str) -> None:
        self.store = store
        self.numbers = random.Random(seed)
        self.held: list[tuple[Installed, disk.Lock]] = []
        self.did = Counter[str]()

    def step(self) -> None:
        """Do one random operation.

        :raises BrokenError: if a requirement is broken.
        """
        does = self.numbers.choices(
            [self.publish, self.use, self.look, self.let_go, self.collect, self.remove, self.survey],
            weights=(3, 4, 8, 3, 2, 1, 1),
        )[0]
        self.did[does.__name__] += 1
        does()

    def publish(self) -> None:
        kills.publish(self.store, self.numbers)

    def use(self) -> None:
        there = self.store.entries()
        if there and len(self.held) < _HELD:
            entry = self.numbers.choice(there)
            lock = self.store.use(entry.key)
            if lock is not None:
                self.held.append((entry, lock))
                self._check(entry)

    def look(self) -> None:
        if self.held:
            self._check(self.numbers.choice(self.held)[0])

    def let_go(self) -> None:
        if self.held:
            entry, lock = self.held.pop(self.numbers.randrange(len(self.held)))
            self._check(entry)
            lock.release()

    def collect(self) -> None:
        kills.gc(self.store, self.numbers)

    def remove(self) -> None:
        there = [name for entry in self.store.entries() for name in entry.meta.ids]
        if there:
            name = self.numbers.choice(there)
            with contextlib.suppress(RpcError):  # gone in the meantime, or in use
                collect.remove(self.store, collect.plan_remove(self.store, name), name)

    def survey(self) -> None:
        report = survey.usage(self.store)
        for usage in report.models:
            if any(usage.entry.key == entry.key for entry, _ in self.held) and not usage.in_use:
                raise BrokenError("a model that is held is said to be free")

    def _check(self, entry: Installed) -> None:
        for file in entry.meta.files:
            try:
                right = file_sha256(entry.folder / file.path) == file.sha256
            except OSError as error:
                raise BrokenError(f"{file.path} of a model in use: {error.strerror}") from error
            if not right:
                raise BrokenError(f"{file.path} of a model in use has other bytes")


def operations(where: Path, count: int, seed: int, plant: Callable[[], None] | None = None) -> tuple[int, int]:
    """Do ``count`` operations in several processes: (operations, faults); with a planted fault a process ends at its
    first."""
    disk._SYSTEM = NoSync()
    store = Store(where)
    store.prepare()
    reading, writing = os.pipe()

    def reader(number: int) -> Callable[[], object]:
        def run() -> None:
            if plant is not None:
                plant()
            mine, faults, done = Reader(Store(where), f"{seed} {number}"), 0, 0
            while done < count // PROCESSES and not (plant and faults):
                done += 1
                try:
                    mine.step()
                except BrokenError as error:
                    faults += 1
                    if faults == 1 and plant is None:
                        sys.stderr.write(f"process {number}, operation {done}: {error}\n")
            os.write(writing, _TOLD.pack(done, faults))

        return run

    with children([reader(number) for number in range(PROCESSES)]) as pids:
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
    os.close(writing)
    with open(reading, "rb") as file:
        told = list(_TOLD.iter_unpack(file.read()))
    faults = sum(row[1] for row in told)
    if plant is None:
        faults += sum(status != 0 for status in ends)  # an error that nobody should see
        try:
            whole(Store(where))
        except (AssertionError, OSError) as error:
            faults += 1
            print(f"at the end: {error}", file=sys.stderr)
    return sum(row[0] for row in told), faults


def _no_marks() -> None:
    """Where locks have no effect, marks say the same: a fault that breaks one must break the other, too."""
    Store.marked = lambda *_: False  # type: ignore[method-assign]


def _deaf_to_locks() -> None:
    disk.lock_fd = lambda fd, *, shared=False: True  # type: ignore[assignment]
    _no_marks()


def _plan_is_enough() -> None:
    honest = disk.try_lock

    def try_lock(path: Path, *, shared: bool, create: bool = True) -> disk.Lock | None:
        # who removes looks when the plan is made and not again
        return honest(path, shared=shared, create=create) if shared or not create else disk.Lock(None)

    disk.try_lock = try_lock
    _no_marks()


PLANTED: dict[str, Callable[[], None]] = {
    "locks are not heard": _deaf_to_locks,
    "a model that came into use goes": _plan_is_enough,
}


def rows(where: Path, count: int, seed: int) -> list[Row]:
    """Return the campaign's rows."""
    began = time.monotonic()
    done, faults = operations(where / "readers", count, seed)
    note = f"{PROCESSES} processes"
    met = faults == 0 and done >= count // PROCESSES * PROCESSES
    table = [Row("live models collected", f"{faults} of {done}", "0", met, time.monotonic() - began, note)]
    for words, plant in PLANTED.items():
        began = time.monotonic()
        # however few were asked for: whether a race is lost is chance, and the first fault ends this
        done, faults = operations(where / plant.__name__, 20_000, seed, plant)
        figure = f"caught in {done}" if faults else "not caught"
        table.append(Row(f"planted: {words}", figure, "caught", faults > 0, time.monotonic() - began))
    return table
