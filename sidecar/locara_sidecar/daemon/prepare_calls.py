"""``models.prepare``: takes its turn in the queue like a job that makes no image; :mod:`preparing` does the work."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import ModelPhase, ModelProgress, PrepareParams, PrepareResult
from locara_sidecar.daemon import engine_choice
from locara_sidecar.daemon.model_specs import model_on_this_machine, model_spec
from locara_sidecar.daemon.turns import cancelled_error, stopping

if TYPE_CHECKING:
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.jobs import Job
    from locara_sidecar.daemon.turns import Shared, Turns
    from locara_sidecar.models.catalogue import Entry


class PrepareCalls:
    """The handler."""

    def __init__(self, shared: Shared, turns: Turns) -> None:
        self._shared = shared
        self._turns = turns

    def prepare(self, call: Call, params: PrepareParams) -> None:
        """Check a call in the contract's order and queue it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        entry, grant = self._shared.models.named(call, params.model, params.engine)
        engine_choice.require_preparing(self._shared.models.engine)
        self._turns.accept(call, entry.id, lambda job: _Preparing(job, call, entry, params, grant, self._shared))


class _Preparing:
    """The :class:`~locara_sidecar.daemon.turns.Work` of one ``models.prepare``."""

    def __init__(self, job: Job, call: Call, entry: Entry, params: PrepareParams, grant: Grant, shared: Shared) -> None:
        self._job = job
        self._call = call
        self._entry = entry
        self._params = params
        self._grant = grant
        self._shared = shared
        self._scope = anyio.CancelScope()

    def queued(self) -> None:
        self._tell("queued", 0, 0)

    async def run(self) -> PrepareResult:
        """:raises RpcError: as preparing fails."""
        done: PrepareResult | None = None
        with self._scope:
            done = await self._prepare()
        if done is None:
            raise cancelled_error([])
        return done

    async def _prepare(self) -> PrepareResult:
        from locara_sidecar.daemon import preparing
        from locara_sidecar.daemon.model_work import run_work
        from locara_sidecar.models.digest import model_digest

        entry, models = self._entry, self._shared.models
        folder, store = models.folder(entry.id), models.catalogue.store
        if folder is None or store is None:
            raise RpcError("ModelNotInstalled", f"The model {entry.id} was removed.", model=entry.id)
        spec = model_spec(
            entry,
            folder=str(folder),
            digest=await models.digest(self._call, entry.id, stopping(self._job)),
            quantization=self._params.quantization,
            precision=self._params.precision,
        )
        with self._shared.use.held(self._grant, entry, folder, models.forms(spec)) as held:
            order = preparing.Order(
                job=self._job.id,
                store=store,
                entry=entry,
                model=model_on_this_machine(spec, held),
                engine=models.engine,
                digest=partial(model_digest, Path(folder), stopping(self._job)),
                run_work=partial(run_work, self._grant),
            )
            return await preparing.prepare(order, self._shared.engine, self._tell)

    def cancel(self) -> None:
        self._scope.cancel()

    def close(self) -> None:
        pass

    def _tell(self, phase: ModelPhase, done: int, total: int) -> None:
        if self._job.channel is not None:
            message = ModelProgress(model=self._entry.id, phase=phase, bytes=done, total_bytes=total)
            self._shared.outbox.push(self._job.channel, message)
