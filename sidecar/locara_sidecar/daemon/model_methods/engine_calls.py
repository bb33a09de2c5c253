"""``models.load``, ``models.unload`` and ``models.prepare``: the methods that use the engine.

Loading and preparing queue like a job that makes no image. Unloading ends an idle engine; while a job runs or waits it
does nothing.
"""

from __future__ import annotations

import importlib
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio.to_thread

from locara_protocol.model_messages import LoadParams, LoadResult, ModelProgress, PrepareParams, UnloadResult
from locara_sidecar.daemon.access import inventory
from locara_sidecar.daemon.jobs.job_runner import cancelled_error, stopping
from locara_sidecar.daemon.wire.stop_scope import StopScope
from locara_sidecar.ipc import frames
from locara_sidecar.machine import engine_choice

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from locara_protocol.messages import NoParams
    from locara_protocol.model_messages import ModelPhase, PrepareResult
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.daemon.jobs.job_runner import JobContext, JobRunner
    from locara_sidecar.daemon.jobs.jobs import Job, JobQueue
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.models.catalogue import Entry

P = TypeVar("P", LoadParams, PrepareParams)


class EngineCalls:
    """The handlers."""

    def __init__(self, shared: JobContext, queue: JobQueue, runner: JobRunner) -> None:
        self._shared = shared
        self._queue = queue
        self._runner = runner

    def load(self, call: Call, params: LoadParams) -> None:
        """Check a call in the contract's order and queue it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        entry, grant = self._shared.gate.named(call, params.model, params.engine)
        self._runner.accept(call, entry.id, lambda job: _Loading(job, call, entry, params, grant, self._shared))

    def prepare(self, call: Call, params: PrepareParams) -> None:
        """Check and queue a call, like :meth:`load`.

        :raises RpcError: for whatever the checks find.
        """
        entry, grant = self._shared.gate.named(call, params.model, params.engine)
        engine_choice.require_preparing(self._shared.gate.engine)
        self._runner.accept(call, entry.id, lambda job: _Preparing(job, call, entry, params, grant, self._shared))

    def unload(self, call: Call, _params: NoParams) -> UnloadResult | None:
        """End the engine if it is idle; the answer comes when it is gone."""
        if self._queue.all():
            return UnloadResult(unloaded=False)
        self._shared.in_flight.answer(call, self._unload)
        return None

    async def _unload(self) -> UnloadResult:
        unloaded = await self._shared.engine.unload()
        await self._shared.use.settle()  # once it has the answer, the host may remove what was loaded
        return UnloadResult(unloaded=unloaded)


def get_ready_to_prepare() -> None:
    """Import what only ``models.prepare`` needs; call it off the event loop."""
    for name in ("preparing", "model_work"):
        importlib.import_module(f"locara_sidecar.daemon.model_methods.{name}")


def _stored_bytes(folder: Path) -> int:
    from locara_sidecar.weights.weight_files import stored_bytes  # in a thread: few sessions load ahead

    return stored_bytes(folder)


class _QueuedCall(Generic[P]):
    """The common part of a :class:`~locara_sidecar.daemon.jobs.job_runner.JobTask` for a call about one
    installed model.
    """

    def __init__(self, job: Job, call: Call, entry: Entry, params: P, grant: Grant, shared: JobContext) -> None:
        self.job = job
        self.call = call
        self.entry = entry
        self.params = params
        self.grant = grant
        self.shared = shared

    def queued(self) -> None:
        self.tell("queued", 0, 0)

    async def aclose(self) -> None:
        pass

    def held(self) -> AbstractAsyncContextManager[frames.ModelSpec]:
        """Hold the model and yield its description; see
        :meth:`~locara_sidecar.daemon.access.model_use.ModelUse.held`.
        """
        return self.shared.use.held(
            self.call,
            self.grant,
            self.entry,
            quantization=self.params.quantization,
            precision=self.params.precision,
            read=stopping(self.job),
        )

    def tell(self, phase: ModelPhase, done: int, total: int) -> None:
        """Report progress: ``done`` of ``total`` bytes."""
        message = ModelProgress(model=self.entry.id, phase=phase, bytes=done, total_bytes=total)
        self.shared.tell(self.job, message)


class _Loading(_QueuedCall[LoadParams]):
    async def run(self) -> LoadResult:
        """Load the model.

        :raises RpcError: as the engine fails.
        """
        entry, fake, total = self.entry, self.shared.gate.fake, 0
        if fake:  # that engine uses the catalogue's sizes
            total = sum(2 * part.parameters for part in entry.components)  # as published
        self.tell("loading", 0, total)
        async with self.held() as model:
            if self.job.cancel_requested:
                raise cancelled_error([])
            if not fake:
                asked = self.params.quantization not in (None, "auto")  # then it is known what will be read
                read = model.prepared[0].path if asked and model.prepared else model.path
                total = await anyio.to_thread.run_sync(_stored_bytes, Path(read))
            spec = frames.LoadSpec(
                job=self.job.id, model=model, width=entry.defaults.width, height=entry.defaults.height
            )
            loaded = await self.shared.engine.load(spec, partial(self._on_event, total))
        self.tell("loading", total, total)
        return LoadResult(
            model=entry.id,
            engine=loaded.engine,
            device=loaded.device,
            quantization=loaded.quantization,
            memory_bytes=loaded.memory,
        )

    def cancel(self) -> None:
        self.shared.engine.cancel(self.job.id)

    def _on_event(self, total: int, event: frames.Event) -> None:
        if isinstance(event, frames.PhaseStarted) and 0 < event.fraction < 1:
            self.tell("loading", round(total * event.fraction), total)


class _Preparing(_QueuedCall[PrepareParams]):
    _last: tuple[ModelPhase, int, int] = "queued", 0, 0

    @cached_property
    def _scope(self) -> StopScope:
        return StopScope()

    async def run(self) -> PrepareResult:
        """Prepare the model.

        :raises RpcError: as preparing fails.
        """
        done: PrepareResult | None = None
        with self._scope:
            done = await self._prepare()
        if done is None:
            raise cancelled_error([])
        phase, read, total = self._last
        if read < total:  # it existed already
            self.tell(phase, total, total)
        return done

    async def _prepare(self) -> PrepareResult:
        from locara_sidecar.daemon.model_methods import preparing  # imported by :func:`get_ready_to_prepare`
        from locara_sidecar.daemon.model_methods.model_work import run_work

        store = self.shared.gate.catalogue.store
        assert store is not None
        async with self.held() as model:
            request = preparing.PreparationRequest(
                job=self.job.id,
                store=store,
                entry=self.entry,
                model=model,
                engine=self.shared.gate.engine,
                digest=partial(inventory.digest, self.entry.id, Path(model.path), stopping(self.job)),
                run_work=partial(run_work, self.grant),
            )
            return await preparing.prepare(request, self.shared.engine, self._note)

    def cancel(self) -> None:
        self._scope.cancel()

    def _note(self, phase: ModelPhase, done: int, total: int) -> None:
        self._last = phase, done, total
        self.tell(phase, done, total)
