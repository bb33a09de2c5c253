"""Says to other processes what this daemon's engine has loaded: a shared lock that keeps ``gc`` away from the model,
and a lease that tells other daemons' memory plans. Both are given back when the engine has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from locara_protocol.errors import RpcError
from locara_sidecar.models.lease import Leases

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from locara_protocol.messages import EngineStatus
    from locara_sidecar.models.catalogue import Entry
    from locara_sidecar.models.disk import Lock
    from locara_sidecar.models.store import Store

_LOOK_SECONDS = 1.0
_ENDED = ("stopped", "dead")


class ModelUse:
    """At most one model at a time, as the engine has.

    :param status: the engine's state now.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    def __init__(self, store: Store, status: Callable[[], EngineStatus], start_task: Callable[..., object]) -> None:
        self._store = store
        self._status = status
        self._start_task = start_task
        self._leases = Leases(store.root)
        self._folder: Path | None = None
        self._lock: Lock | None = None
        self._jobs = 0

    def begin(self, entry: Entry, folder: Path) -> None:
        """A job is about to use the model in ``folder``.

        :raises RpcError: ModelNotInstalled when it was removed a moment ago.
        """
        if folder != self._folder:
            lock = None
            if folder.parent == self._store.models:
                lock = self._store.use(folder.name)
                if lock is None:
                    raise RpcError("ModelNotInstalled", f"The model {entry.id} was removed.", model=entry.id)
            self._release()
            self._folder, self._lock = folder, lock
            self._start_task(self._watch, folder)
        self._jobs += 1
        if entry.memory:
            self._leases.hold(entry.id, max(need.peak for need in entry.memory.values()))

    def end(self) -> None:
        """The job is done; the engine may keep the model."""
        self._jobs -= 1

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._leases.release()
        self._folder = self._lock = None

    async def _watch(self, folder: Path) -> None:
        while self._folder == folder:
            await anyio.sleep(_LOOK_SECONDS)
            if self._folder == folder and self._jobs == 0 and self._status().state in _ENDED:
                self._release()
