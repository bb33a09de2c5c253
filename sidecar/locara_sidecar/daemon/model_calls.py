"""The ``models.*`` methods: check, then work in a thread (what is quick) or in a process of its own (what is long).

Long calls do not take the engine's place in the queue; at most :data:`MAX_WORKS` run at once.
"""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from locara_protocol import model_messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import MANAGEMENT, Grant, Wanted, authorize
from locara_sidecar.daemon import engine_choice
from locara_sidecar.daemon.model_results import (
    describe,
    machines,
    own_result,
    removed_result,
    usage_result,
    work_result,
)
from locara_sidecar.daemon.open_calls import OpenCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.channel_messages import Streamed
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.outbox import Outbox
    from locara_sidecar.daemon.session import Session
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.models import worker
    from locara_sidecar.models.catalogue import Catalogue, Entry
    from locara_sidecar.models.store import Store

MAX_WORKS = 4

_MODEL_PHASES: dict[m.DownloadPhase, m.ModelPhase] = {
    "resolving": "reading",
    "downloading": "reading",
    "verifying": "verifying",
    "publishing": "publishing",
}


class ModelCalls:
    """The handlers.

    :param flags: what the host allowed at spawn.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        catalogue: Catalogue,
        engine_name: str,
        session: Session,
        flags: frozenset[str],
        record: Callable[[Call, Wanted, Grant | RpcError], None],
        start_task: Callable[..., object],
    ) -> None:
        assert catalogue.store is not None
        self._store: Store = catalogue.store
        self._outbox = outbox
        self._catalogue = catalogue
        self._engine_name = engine_name
        self._session = session
        self._flags = flags
        self._record = record
        self._start_task = start_task
        self._works: dict[int | str, anyio.CancelScope] = {}
        self._open = OpenCalls()

    def accept(self, call: Call, params: Any) -> None:
        """Check a call in the contract's order and start it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        model: str | None = getattr(params, "model", None)
        if call.method == "models.import" and not Path(params.folder).is_absolute():
            raise invalid_params("$.from", "The folder must be absolute.")
        grant = self._authorize(call, model)
        entry = None if model is None else self._catalogue.get(model)
        if model is not None and entry is None:
            raise RpcError("ModelNotFound", f"There is no model {model} in the catalogue.", model=model)
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
        self._open.enter()
        self._start_task(self._answer, call, quick[call.method])

    def _authorize(self, call: Call, model: str | None) -> Grant:
        policy = msgspec.structs.replace(self._session.policy, flags=self._flags)
        wanted = self._wanted(model)
        try:
            grant = authorize(policy, METHODS[call.method], wanted)
        except RpcError as denied:
            self._record(call, wanted, denied)
            raise
        self._record(call, wanted, grant)
        return grant

    def _wanted(self, model: str | None) -> Wanted:
        installed = None if model is None else self._store.find(model)
        digests = {} if model is None or installed is None else {model: installed.meta.digest}
        return Wanted(models=() if model is None else (model,), digests=digests)

    def _declared(self) -> set[str]:
        manifest = self._session.policy.manifest
        return set() if manifest is None else {entry.id for entry in manifest.models}

    def _is_granted(self, model: str) -> bool:
        """Whether a declared model may be used as it is: another one than the manifest pins may not."""
        try:
            authorize(self._session.policy, METHODS["models.get"], self._wanted(model))
        except RpcError:
            return False
        return True

    # --- ending --------------------------------------------------------------------------

    def cancel(self, request_id: int | str) -> None:
        """Stop a long call; anything else: nothing happens."""
        scope = self._works.get(request_id)
        if scope is not None:
            scope.cancel()

    def cancel_all(self) -> None:
        for scope in self._works.values():
            scope.cancel()

    async def wait_until_idle(self) -> None:
        """Return when every call has been answered."""
        await self._open.wait()

    # --- quick ones ----------------------------------------------------------------------

    async def _answer(self, call: Call, function: Callable[[], Any]) -> None:
        try:
            call.succeed(await anyio.to_thread.run_sync(function))
        except RpcError as error:
            call.fail(error)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            call.fail(RpcError("StorageError", f"The model cache cannot be used ({name}).", errno=name))
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            call.fail_unexpectedly(error)
        finally:
            self._open.leave()

    def _list(self) -> m.ModelsListResult:
        declared, machines = self._declared(), self._machines()
        return m.ModelsListResult(
            models=[
                self._describe(entry, machines, granted=self._is_granted(entry.id))
                for entry in self._catalogue
                if entry.id in declared
            ]
        )

    def _get(self, entry: Entry | None) -> m.Model:
        assert entry is not None
        return self._describe(entry, self._machines())

    def _describe(self, entry: Entry, machines: dict[str, Machine], *, granted: bool = True) -> m.Model:
        return describe(self._catalogue, entry, machines, [self._engine_name], granted=granted)

    def _machines(self) -> dict[str, Machine]:
        engines = engine_choice.installed() if self._engine_name == "fake" else [self._engine_name]
        return machines(self._store, engines)

    def _usage(self) -> m.UsageResult:
        from locara_sidecar.models import survey

        everything = MANAGEMENT in self._flags
        return usage_result(survey.usage(self._store), None if everything else self._declared())

    def _remove(self, params: m.RemoveParams) -> m.RemovedResult:
        from locara_sidecar.models import collect

        plan = collect.plan_remove(self._store, params.model, only_prepared=params.prepared or False)
        if params.dry_run:
            return removed_result(plan.models, plan.bytes, params.model)
        done = collect.remove(self._store, plan, params.model)
        return removed_result(done.models, done.bytes, params.model)

    def _gc(self, params: m.GcParams) -> m.RemovedResult:
        from locara_sidecar.models import collect

        plan = collect.plan_gc(self._store, params.max_bytes)
        if params.dry_run:
            return removed_result(plan.models, plan.bytes)
        done = collect.execute(self._store, plan)
        return removed_result(done.models, done.bytes)

    # --- long ones -----------------------------------------------------------------------

    def _begin(self, call: Call, entry: Entry, params: Any, grant: Grant) -> None:
        from locara_sidecar.models.worker import Work

        if len(self._works) >= MAX_WORKS:
            raise RpcError("QueueFull", f"{MAX_WORKS} downloads, imports or checks are running already.")
        own = self._catalogue.own_folder(entry.id)
        root = str(self._store.root)
        if call.method == "models.verify":
            if self._catalogue.folder(entry.id) is None:
                raise RpcError("ModelNotInstalled", f"The model {entry.id} is not installed.", model=entry.id)
            work = Work(op="verify", root=root, entry=entry, folder=None if own is None else str(own))
        else:
            if own is not None and self._catalogue.folder(entry.id) is not None:
                self._open.enter()
                self._start_task(self._answer, call, partial(own_result, entry.id, own))
                return
            if own is not None or (call.method == "models.download" and not entry.downloadable):
                raise RpcError(
                    "DownloadFailed" if call.method == "models.download" else "StorageError",
                    f"{entry.id} comes from a folder of the host's, not from a hub.",
                    retryable=False,
                )
            folder = params.folder if isinstance(params, m.ImportParams) else None
            op = "import" if call.method == "models.import" else "download"
            work = Work(op=op, root=root, entry=entry, folder=folder, token=self._session.token)
        scope = self._works[call.id] = anyio.CancelScope()
        self._open.enter()
        self._start_task(self._work, call, grant, work, scope)

    async def _work(self, call: Call, grant: Grant, work: worker.Work, scope: anyio.CancelScope) -> None:
        from locara_sidecar.daemon.model_work import run_work

        done: worker.Done | None = None
        failure: Exception | None = None
        try:
            with scope:
                done = await run_work(grant, work, partial(self._tell, call))
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            failure = error
        finally:
            del self._works[call.id]
            self._open.leave()
        if done is not None:
            call.succeed(work_result(work, done))
        elif isinstance(failure, RpcError):
            call.fail(failure)
        elif failure is not None:
            call.fail_unexpectedly(failure)
        else:
            call.fail(RpcError("RequestCancelled", "The request was cancelled.", images=[]))

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
