"""Says to other processes what this daemon's engine has loaded: a shared lock that keeps ``gc`` away from the model,
and a lease that tells other daemons' memory plans. Both are given back when the engine has ended."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio

from locara_protocol.errors import RpcError
from locara_sidecar.daemon import system

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from locara_protocol.messages import EngineStatus
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.engine.frames import PreparedForm
    from locara_sidecar.models.catalogue import Catalogue, Entry
    from locara_sidecar.models.disk import Lock
    from locara_sidecar.models.lease import Leases
    from locara_sidecar.models.store import Store

_LOOK_SECONDS = 1.0
_ENDED = ("stopped", "dead")


class Held(NamedTuple):
    """What a job may count on: bytes of memory that other daemons' engines hold or were promised, and the prepared
    forms that stay while it runs."""

    reserved: int
    forms: list[PreparedForm]


class ModelUse:
    """At most one model at a time, as the engine has.

    :param catalogue: knows the store that other processes share; without one there is nobody to tell.
    :param engine: the name of this daemon's engine.
    :param status: the engine's state now.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        engine: str,
        status: Callable[[], EngineStatus],
        start_task: Callable[..., object],
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._status = status
        self._start_task = start_task
        self._leases: Leases | None = None
        self._folder: Path | None = None
        self._locks: dict[str, Lock] = {}  # by the store's key: the model and what was prepared of it
        self._jobs = 0

    @contextlib.contextmanager
    def held(
        self, grant: Grant, entry: Entry, folder: Path | None, forms: Sequence[PreparedForm] = ()
    ) -> Generator[Held]:
        """While a job uses the model in ``folder``, or one of its ``forms``; afterwards the engine may keep it.

        :param grant: leave to load that model.
        :param folder: None for a model without files.
        :raises RpcError: ModelNotInstalled when it was removed a moment ago.
        """
        grant.require(entry.id, "generate", "edit", "model", "download")
        store = self._catalogue.store
        if store is None or folder is None:
            yield Held(0, [])
            return
        there = self._begin(store, entry, folder, forms)
        try:
            yield Held(0 if self._leases is None else self._leases.reserved(), there)
        finally:
            self._jobs -= 1
            self.settle()

    def _begin(self, store: Store, entry: Entry, folder: Path, forms: Sequence[PreparedForm]) -> list[PreparedForm]:
        """Hold the folders in place of others; those of ``forms`` that are still there."""
        if folder != self._folder:
            lock = None
            if folder.parent == store.models:
                lock = store.use(folder.name)
                if lock is None:
                    raise RpcError("ModelNotInstalled", f"The model {entry.id} was removed.", model=entry.id)
            self._release()
            self._folder = folder
            if lock is not None:
                self._locks[folder.name] = lock
            self._start_task(self._watch, folder)
        self._jobs += 1
        there: list[PreparedForm] = []
        for form in forms:
            key = Path(form.path).name
            # what an earlier job may have loaded stays held as long as the engine has the model
            if key not in self._locks and (lock := store.use(key)) is not None:
                self._locks[key] = lock
            if key in self._locks:
                there.append(form)
        if self._leases is None:
            from locara_sidecar.models.lease import Leases  # a daemon that draws nothing needs none

            self._leases = Leases(store.root)
        if entry.components:
            from locara_sidecar.models import fit

            self._leases.hold(entry.id, fit.promise(entry, system.machine(store.root, self._engine)))
        return there

    def settle(self) -> None:
        """Give everything back if the engine has ended; it is looked at every second, too."""
        if self._jobs == 0 and self._folder is not None and self._status().state in _ENDED:
            self._release()

    def _release(self) -> None:
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()
        if self._leases is not None:
            self._leases.release()
        self._folder = None

    async def _watch(self, folder: Path) -> None:
        while self._folder == folder:
            await anyio.sleep(_LOOK_SECONDS)
            if self._folder == folder:
                self.settle()
