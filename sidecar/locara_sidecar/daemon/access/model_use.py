"""Keeps a model in place while a job uses it, and informs other processes about what this daemon's engine has loaded.

A shared lock keeps ``gc`` away from the model, and a lease informs other daemons' memory plans. Both are released when
the engine has ended.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.daemon import system
from locara_sidecar.daemon.access import inventory
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.models.model_specs import model_spec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from locara_protocol.messages import EngineStatus
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.daemon.access.gate import Gate
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.ipc.frames import ModelSpec, Sides
    from locara_sidecar.models.cache.disk import Lock
    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Entry
    from locara_sidecar.models.lease import Leases

_LOOK_SECONDS = 1.0
_ENDED = ("stopped", "dead")


class ModelUse:
    """The model in use; at most one at a time, like the engine.

    :param gate: knows what is installed, and the store shared with other processes, if there is one.
    :param status: returns the engine's current state.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    def __init__(
        self,
        gate: Gate,
        status: Callable[[], EngineStatus],
        start_task: Callable[..., object],
    ) -> None:
        self._gate = gate
        self._status = status
        self._start_task = start_task
        self._changing: anyio.Lock | None = None  # guards what follows, which threads change one at a time
        self._leases: Leases | None = None
        self._folder: Path | None = None
        self._locks: dict[str, Lock] = {}  # by the store's key: for the model and its prepared form
        self._jobs = 0

    @contextlib.asynccontextmanager
    async def held(
        self,
        call: Call,
        grant: Grant,
        entry: Entry,
        *,
        quantization: str | None,
        precision: str | None,
        sides: Sides | None = None,
        read: Callable[[int], object],
    ) -> AsyncGenerator[ModelSpec]:
        """Hold the model while a job uses it, and yield its description for the engine.

        It is held first and described afterwards, so that the description is true of the disk. Afterwards the engine
        may keep the model.

        :param grant: permission to load that model.
        :param quantization: and ``precision``: as requested by the call; None for any.
        :param sides: set if the call allows fewer sizes than the model does.
        :param read: see :meth:`Gate.digest`.
        :raises RpcError: ModelNotInstalled if it has just been removed; as :meth:`Gate.choose` and :meth:`Gate.digest`.
        """
        grant.require(entry.id, "generate", "edit", "model", "download")
        await off_loop(self._gate.look)
        folder = self._gate.folder(entry.id)
        if folder is None:
            raise inventory.lost(entry.id) if entry.is_shipped else _removed(entry)
        store = None if self._gate.fake else self._gate.catalogue.store
        if store is not None:
            await self._begin(store, entry, folder)
        try:
            spec = model_spec(
                entry,
                folder=str(folder),
                digest=await self._gate.digest(call, entry.id, read),
                quantization=quantization,
                precision=precision,
                sides=sides,
            )
            if store is not None:
                spec = msgspec.structs.replace(spec, prepared=self._gate.forms(spec))
                spec = await off_loop(self._hold, store, spec)
            yield spec
        finally:
            if store is not None:
                self._jobs -= 1
                with anyio.CancelScope(shield=True):
                    await self.settle()

    async def _begin(self, store: Store, entry: Entry, folder: Path) -> None:
        async with self._one():
            self._jobs += 1  # from now on, nothing is released for lack of jobs
            before = self._folder
            try:
                await off_loop(self._take, store, entry, folder)
            except BaseException:
                self._jobs -= 1
                raise
            if self._folder != before:
                self._start_task(self._watch, folder)

    def _take(self, store: Store, entry: Entry, folder: Path) -> None:
        """Hold a folder instead of those held before, and reserve its memory. Runs in a thread."""
        if folder != self._folder:
            lock = None
            if folder.parent == store.models:
                lock = store.use(folder.name)
                if lock is None:
                    raise _removed(entry)
            self._release()
            self._folder = folder
            if lock is not None:
                self._locks[folder.name] = lock
        if self._leases is None:
            from locara_sidecar.models.lease import Leases  # a daemon that draws nothing does not need it

            self._leases = Leases(store.root)
        if entry.components:
            from locara_sidecar.models import fit

            gate = self._gate
            machine = system.machine(store.root, gate.engine, prefer_float16=gate.prefer_float16)
            self._leases.hold(entry.id, fit.promise(entry, machine))

    def _hold(self, store: Store, model: ModelSpec) -> ModelSpec:
        """Hold all folders of a model. Return the description that stays true during the job, with the bytes of memory
        that other daemons' engines hold or have reserved. Runs in a thread.
        """
        for folder in map(Path, model.folders()):
            key = folder.name
            # what an earlier job may have loaded stays held as long as the engine has the model
            if folder.parent == store.models and key not in self._locks and (lock := store.use(key)) is not None:
                self._locks[key] = lock
        for lock in self._locks.values():
            lock.refresh()
        return msgspec.structs.replace(
            model,
            prepared=[form for form in model.prepared if Path(form.path).name in self._locks],
            reserved=0 if self._leases is None else self._leases.reserved(),
        )

    async def settle(self) -> None:
        """Release everything if the engine has ended; a task also checks this every second."""
        async with self._one():
            if self._jobs == 0 and self._folder is not None and self._status().state in _ENDED:
                await off_loop(self._release, refused=self._release)

    def _release(self) -> None:
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()
        if self._leases is not None:
            self._leases.release()
        self._folder = None

    def _one(self) -> anyio.Lock:
        if self._changing is None:
            self._changing = anyio.Lock()
        return self._changing

    async def _watch(self, folder: Path) -> None:
        while self._folder == folder:
            await anyio.sleep(_LOOK_SECONDS)
            if self._folder == folder:
                await self.settle()


def _removed(entry: Entry) -> RpcError:
    return RpcError("ModelNotInstalled", f"The model {entry.id} was removed.", model=entry.id)
