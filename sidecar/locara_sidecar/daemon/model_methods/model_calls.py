"""The ``models.*`` methods: check the call, then do the work in a thread (if quick) or in a separate process (if long).

Long calls do not occupy the engine's queue; at most :data:`MAX_WORKS` run at once.
"""

from __future__ import annotations

import contextlib
import errno
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.to_thread
import msgspec

from locara_protocol import model_messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.methods import METHODS
from locara_sidecar.daemon import system
from locara_sidecar.daemon.model_methods.model_work import run_work
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.daemon.wire.shared_work import SharedWork
from locara_sidecar.daemon.wire.stop_scope import StopScope
from locara_sidecar.machine import engine_choice
from locara_sidecar.models import operations, worker
from locara_sidecar.models.cache import collect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locara_protocol.channel_messages import Streamed
    from locara_protocol.messages import Result
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.daemon.access.gate import Gate
    from locara_sidecar.daemon.jobs.in_flight import InFlight
    from locara_sidecar.daemon.session import Session
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.daemon.wire.outbox import Outbox
    from locara_sidecar.machine.machine import Machine
    from locara_sidecar.models.cache.store import Store
    from locara_sidecar.models.catalogue import Entry

MAX_WORKS = 4
_SWEEP_SECONDS = 0.5

_OPERATIONS: dict[str, Literal["download", "import", "verify"]] = {
    "models.download": "download",
    "models.import": "import",
    "models.verify": "verify",
}
_READING = frozenset({"models.list", "models.get", "models.usage"})
"""Methods that change nothing."""

_MODEL_PHASES: dict[m.DownloadPhase, m.ModelPhase] = {
    "resolving": "reading",
    "downloading": "reading",
    "verifying": "verifying",
    "publishing": "publishing",
}


class ModelCalls:
    """The handlers."""

    def __init__(self, outbox: Outbox, gate: Gate, session: Session, in_flight: InFlight) -> None:
        assert gate.catalogue.store is not None
        self._store: Store = gate.catalogue.store
        self._outbox = outbox
        self._gate = gate
        self._session = session
        self._in_flight = in_flight
        self._shared = SharedWork()
        self._works = 0

    def accept(self, call: Call, params: Any) -> None:
        """Check a call in the contract's order and start it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        if call.method == "models.import" and not Path(params.folder).is_absolute():
            raise invalid_params("$.from", "The folder must be absolute.")
        entry, grant = self._gate.about(call, getattr(params, "model", None))
        if METHODS[call.method].notification is not None:
            assert entry is not None
            self._begin(call, entry, params, grant)
            return
        quick: dict[str, Callable[[], Any]] = {
            "models.list": self._list,
            "models.get": partial(self._get, entry),
            "models.usage": self._usage,
            "models.remove": partial(self._remove, params),
            "models.gc": partial(self._gc, params),
        }
        work = partial(_in_thread, quick[call.method])
        if call.method in _READING:
            work = partial(self._shared.run, (call.method, None if entry is None else entry.id), work)
        self._in_flight.answer(call, work)

    # --- quick ones ----------------------------------------------------------------------

    def _list(self) -> m.ModelsListResult:
        self._gate.look()
        declared = self._gate.declared()
        models = self._describe(entry for entry in self._gate.catalogue if entry.id in declared)
        return m.ModelsListResult(models, free_bytes=operations.free_bytes(self._store) if models else msgspec.UNSET)

    def _get(self, entry: Entry | None) -> m.Model:
        assert entry is not None
        (model,) = self._describe([entry])
        return model

    def _describe(self, entries: Iterable[Entry]) -> list[m.Model]:
        gate = self._gate
        return operations.describe(gate.catalogue, entries, self._machines(), [gate.engine], gate.holds)

    def _machines(self) -> dict[str, Machine]:
        engines = engine_choice.installed() if self._gate.fake else [self._gate.engine]
        return system.machines(self._store.root, engines, prefer_float16=self._gate.prefer_float16)

    def _usage(self) -> m.UsageResult:
        return operations.usage(self._store, None if self._gate.manages() else self._gate.declared())

    def _remove(self, params: m.RemoveParams) -> m.RemovedResult:
        only_prepared, dry_run = params.prepared or False, params.dry_run or False
        return operations.remove(self._store, params.model, only_prepared=only_prepared, dry_run=dry_run)

    def _gc(self, params: m.GcParams) -> m.RemovedResult:
        return operations.gc(self._store, params.max_bytes, dry_run=params.dry_run or False)

    # --- long ones -----------------------------------------------------------------------

    def _begin(self, call: Call, entry: Entry, params: Any, grant: Grant) -> None:
        if self._works >= MAX_WORKS:
            raise RpcError("QueueFull", f"{MAX_WORKS} downloads, imports or checks are running already.")
        imported = isinstance(params, m.ImportParams)
        work = operations.work(
            self._gate.catalogue,
            entry,
            _OPERATIONS[call.method],
            there=self._gate.files(entry.id),
            folder=Path(params.folder) if imported else None,
            replace=imported and bool(params.replace),
            token=self._session.token,
        )
        if work is None:
            self._in_flight.answer(call, partial(_in_thread, partial(operations.own, self._gate.catalogue, entry)))
            return
        scope = StopScope()
        self._works += 1
        self._in_flight.answer(call, partial(self._work, call, grant, work, scope), scope.cancel)

    async def _work(self, call: Call, grant: Grant, work: worker.WorkerRequest, scope: StopScope) -> Result:
        done: worker.WorkerResult | None = None
        try:
            with scope:
                if work.op != "verify":
                    engines = await off_loop(engine_choice.asked_about_folders, self._gate.engine)
                    work = msgspec.structs.replace(work, engines=engines)
                done = await run_work(grant, work, partial(self._tell, call))
        finally:
            if done is None and work.op in ("download", "import"):
                await self._sweep()
            self._works -= 1
        if done is None:
            raise RpcError("RequestCancelled", "The request was cancelled.", images=[])
        return operations.result(work, done)

    async def _sweep(self) -> None:
        """Delete what a killed worker left half-finished, without waiting for a slow disk."""
        with contextlib.suppress(OSError, RuntimeError), anyio.move_on_after(_SWEEP_SECONDS):  # no thread: later
            await anyio.to_thread.run_sync(collect.sweep, self._store, abandon_on_cancel=True)

    def _tell(self, call: Call, progress: m.DownloadProgress) -> None:
        if call.channel is None:
            return
        message: Streamed = progress
        if call.channel.notification == "ModelProgress":
            message = m.ModelProgress(
                model=progress.model,
                phase=_MODEL_PHASES[progress.phase],
                bytes=progress.bytes,
                total_bytes=progress.total_bytes,
            )
        self._outbox.push(call.channel, message)


async def _in_thread(function: Callable[[], Result]) -> Result:
    """Call a function in a thread.

    :raises RpcError: as the function does; StorageError if it fails with an OSError.
    """
    try:
        return await anyio.to_thread.run_sync(function)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        raise RpcError("StorageError", f"The model cache cannot be used ({name}).", errno=name) from error
