"""``models.load`` and ``models.unload``: what the engine has ready, at the host's word.

Loading takes its turn in the queue like a job that makes no image. Unloading ends an engine without work; while a job
runs or waits it does nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from locara_protocol.model_messages import LoadParams, LoadResult, ModelPhase, ModelProgress, UnloadResult
from locara_sidecar.daemon.model_specs import model_spec, on_this_machine
from locara_sidecar.daemon.open_calls import OpenCalls
from locara_sidecar.daemon.preparing import weight_bytes
from locara_sidecar.daemon.turns import cancelled_error, stopping
from locara_sidecar.engine import frames

if TYPE_CHECKING:
    from locara_protocol.messages import NoParams
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.jobs import Job, JobQueue
    from locara_sidecar.daemon.turns import Shared, Turns
    from locara_sidecar.models.catalogue import Entry


class LoadCalls:
    """The handlers."""

    def __init__(self, shared: Shared, queue: JobQueue, turns: Turns) -> None:
        self._shared = shared
        self._queue = queue
        self._turns = turns
        self._unloading = OpenCalls()

    def load(self, call: Call, params: LoadParams) -> None:
        """Check a call in the contract's order and queue it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        entry, grant = self._shared.models.named(call, params.model, params.engine)
        self._turns.accept(call, entry.id, lambda job: _Loading(job, call, entry, params, grant, self._shared))

    def unload(self, call: Call, params: NoParams) -> UnloadResult | None:
        """End the engine if it has no work; the answer comes when it is gone."""
        if self._queue.all():
            return UnloadResult(unloaded=False)
        self._unloading.enter()
        self._shared.start_task(self._unload, call)
        return None

    async def _unload(self, call: Call) -> None:
        try:
            unloaded = await self._shared.engine.unload()
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            call.fail_unexpectedly(error)
        else:
            self._shared.use.settle()  # what was loaded may be removed as soon as the host has the answer
            call.succeed(UnloadResult(unloaded=unloaded))
        finally:
            self._unloading.leave()

    async def wait_until_idle(self) -> None:
        """Return when no engine is being ended for a call; those that load wait in the queue."""
        await self._unloading.wait()


class _Loading:
    """The :class:`~locara_sidecar.daemon.turns.Work` of one ``models.load``."""

    def __init__(self, job: Job, call: Call, entry: Entry, params: LoadParams, grant: Grant, shared: Shared) -> None:
        self._job = job
        self._call = call
        self._entry = entry
        self._params = params
        self._grant = grant
        self._shared = shared
        self._total = 0

    def queued(self) -> None:
        self._tell("queued", 0.0)

    async def run(self) -> LoadResult:
        """:raises RpcError: as the engine fails."""
        entry, folder = self._entry, self._shared.models.files(self._entry.id)
        if folder is None:  # the fake engine counts to what the catalogue says
            self._total = sum(2 * part.parameters for part in entry.components)  # as published
        self._tell("loading", 0.0)
        digest = await self._shared.models.digest(self._call, entry.id, stopping(self._job))
        if self._job.cancel_requested:
            raise cancelled_error([])
        spec = frames.LoadSpec(
            job=self._job.id,
            model=model_spec(
                entry,
                folder=str(folder or ""),
                digest=digest,
                quantization=self._params.quantization,
                precision=self._params.precision,
            ),
            width=entry.defaults.width,
            height=entry.defaults.height,
        )
        forms = self._shared.models.forms(spec.model)
        if folder is not None:
            asked = self._params.quantization not in (None, "auto")  # then it is known what will be read
            read = Path(forms[0].path) if asked and forms else folder
            self._total = await anyio.to_thread.run_sync(weight_bytes, read)
        with self._shared.use.held(self._grant, entry, folder, forms) as held:
            loaded = await self._shared.engine.load(on_this_machine(spec, held), self._on_event)
        self._tell("loading", 1.0)
        return LoadResult(
            model=entry.id,
            engine=loaded.engine,
            device=loaded.device,
            quantization=loaded.quantization,
            memory_bytes=loaded.memory,
        )

    def cancel(self) -> None:
        self._shared.engine.cancel(self._job.id)

    def close(self) -> None:
        pass

    def _on_event(self, event: frames.Event) -> None:
        if isinstance(event, frames.PhaseStarted) and 0 < event.fraction < 1:
            self._tell("loading", event.fraction)

    def _tell(self, phase: ModelPhase, fraction: float) -> None:
        if self._job.channel is not None:
            done = round(self._total * fraction)
            message = ModelProgress(model=self._entry.id, phase=phase, bytes=done, total_bytes=self._total)
            self._shared.outbox.push(self._job.channel, message)
