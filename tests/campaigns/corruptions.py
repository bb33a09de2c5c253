"""Transfers whose bytes are not those that the hub announced: each must be refused, nothing may become visible, and
no parser may see the wrong bytes before they are refused.

A few processes with a hub of their own each; syncing is left out. Needs fork.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import ssl
import struct
import sys
import time
from typing import TYPE_CHECKING

from campaigns.processes import children
from campaigns.report import Row
from locara_protocol.errors import RpcError
from locara_sidecar.models.cache import disk
from locara_sidecar.models.cache.store import Store
from locara_sidecar.models.checks import check
from locara_sidecar.models.downloads.download import Download
from locara_sidecar.models.downloads.transfer import RetryPolicy, Transfer
from support.granted_folders import NoSync
from support.hub import FakeHub
from support.model_store import NO_TOKEN, entry_for, whole, write_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROCESSES = 2
KINDS = ("flip", "other", "cut", "longer")
_WEIGHTS = (6, 2, 1, 1)
_TOLD = struct.Struct("<III")  # transfers, accepted, parsed; each process says it at its end
_IMPATIENT = RetryPolicy(connect=5, read=5, tries=2, first_wait=0.001, longest_wait=0.001)


class Target:
    """A hub with one small model, and a store that is emptied after each try."""

    def __init__(self, where: Path, seed: str) -> None:
        self.hub = FakeHub()
        self.hub.add("org/mine", write_model(where / "model", size=2000))
        self.store = Store(where / "cache")
        self.numbers = random.Random(seed)
        self.parsed = 0
        self._wrong = ""
        honest = check.check_file

        def check_file(folder: Path, path: str) -> None:
            self.parsed += path == self._wrong
            honest(folder, path)

        check.check_file = check_file

    def corrupt(self) -> bool:
        """Run one corrupted transfer; return whether it was refused correctly, with nothing visible."""
        files = self.hub.repositories["org/mine"].files
        self._wrong = self.numbers.choice(sorted(files))
        _, sha256, _, size, lfs = files[self._wrong]
        kind = self.numbers.choices(KINDS, _WEIGHTS)[0]
        self.hub.faults = []
        self.hub.fail(f"/cdn/{sha256}" if lfs else self._wrong, kind, at=self.numbers.randrange(size))
        try:
            Download(
                self.store, entry_for(), tell=_quiet, endpoint=self.hub.url, patience=_IMPATIENT, token=NO_TOKEN
            ).run()
            refused = False
        except RpcError as error:
            refused = error.kind == ("DownloadFailed" if kind == "cut" else "IntegrityError") and not whole(self.store)
        except AssertionError:
            refused = False
        self.hub.log.clear()
        shutil.rmtree(self.store.root)
        return refused


def _quiet(_: object) -> None:
    pass


def corruptions(where: Path, count: int, seed: int, plant: Callable[[], None] | None = None) -> tuple[int, int, int]:
    """Return (transfers, transfers not refused, transfers whose wrong bytes reached a parser)."""
    reading, writing = os.pipe()

    def worker(number: int) -> Callable[[], object]:
        def run() -> None:
            disk._SYSTEM = NoSync()
            # reading the system's certificates takes longer than all the rest
            ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
            if plant is not None:
                plant()
            target, accepted, tries = Target(where / str(number), f"{seed} {number}"), 0, count // PROCESSES
            for _ in range(tries):
                accepted += not target.corrupt()
            os.write(writing, _TOLD.pack(tries, accepted, target.parsed))

        return run

    with children([worker(number) for number in range(PROCESSES)]) as pids:
        ended_badly = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    os.close(writing)
    with open(reading, "rb") as file:
        told = list(_TOLD.iter_unpack(file.read()))
    if ended_badly:
        print(f"{ended_badly} processes ended with an error", file=sys.stderr)
    return sum(row[0] for row in told), sum(row[1] for row in told) + ended_badly, sum(row[2] for row in told)


def _no_hash() -> None:
    Transfer._verify = lambda *_: None  # type: ignore[method-assign]


def rows(where: Path, count: int, seed: int) -> list[Row]:
    """Return the campaign's rows."""
    began = time.monotonic()
    done, accepted, parsed = corruptions(where / "corruptions", count, seed)
    figure, note = f"{accepted} of {done}", f"{parsed} were parsed first; {', '.join(KINDS)}"
    met = not accepted + parsed and done > 0
    table = [Row("wrong bytes that were not refused", figure, "0", met, time.monotonic() - began, note)]
    began = time.monotonic()
    done, accepted, parsed = corruptions(where / "no-hash", 20, seed, _no_hash)
    figure, note = f"{accepted} of {done}", f"{parsed} were parsed"
    row = Row("planted: no hash is compared", figure, "> 0", accepted > 0 < parsed, time.monotonic() - began, note)
    return [*table, row]
