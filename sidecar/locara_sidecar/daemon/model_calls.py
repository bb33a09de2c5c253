"""The ``models.*`` methods: check, then work in a thread (what is quick) or in a process of its own (what is long).

Long calls do not take the engine's place in the queue; at most :data:`MAX_WORKS` run at once.
"""

from __future__ import annotations

import datetime
import errno
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.to_thread
import msgspec
from msgspec import UNSET

from locara_protocol import model_messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import MANAGEMENT, Grant, Wanted, authorize
from locara_sidecar.daemon import engine_choice, system
from locara_sidecar.engine import speeds
from locara_sidecar.models import fit
from locara_sidecar.models.catalogue import RUNNABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.channel_messages import Streamed
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.outbox import Outbox
    from locara_sidecar.daemon.session import Session
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.models import collect, worker
    from locara_sidecar.models.catalogue import Catalogue, Entry
    from locara_sidecar.models.store import Installed, Store

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
        self._open = 0
        self._idle = anyio.Event()
        self._idle.set()

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
        self._track()
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
        await self._idle.wait()

    def _track(self) -> None:
        if self._open == 0:
            self._idle = anyio.Event()
        self._open += 1

    def _done(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._idle.set()

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
            self._done()

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
        from locara_sidecar.models import collect

        everything = MANAGEMENT in self._flags
        return usage_result(collect.usage(self._store), None if everything else self._declared())

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
                self._track()
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
        self._track()
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
            self._done()
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


# --- what results are made of; the command line uses these too ----------------------------------


def machines(store: Store, engines: list[str]) -> dict[str, Machine]:
    """This machine as each engine's memory plan sees it."""
    return {engine: system.machine(store.root, engine) for engine in engines}


def describe(
    catalogue: Catalogue, entry: Entry, machines: dict[str, Machine], engines: list[str], *, granted: bool = True
) -> m.Model:
    """A model as ``models.list`` shows it.

    :param machines: by engine, for which of them the fit is told, in this order.
    :param engines: those that may draw with it, whose speeds are told.
    """
    installed = None if catalogue.store is None else catalogue.store.find(entry.id)
    folder = catalogue.folder(entry.id)
    forms = _forms(catalogue, entry, installed)
    kept = {(form.engine, form.quantization) for form in forms}
    rows = [row for engine, machine in machines.items() for row in fit.table(entry, machine, [engine], kept)]
    commits = {} if installed is None else {origin.repository: origin.revision for origin in installed.meta.source}
    return m.Model(
        id=entry.id,
        version=entry.version,
        display_name=entry.display_name,
        description=entry.description,
        tags=entry.tags,
        license=entry.license,
        license_url=entry.license_url,
        commercial_use=entry.commercial_use,
        gated=entry.gated,
        modalities=entry.modalities,
        family=entry.family,
        parameters=entry.parameters,
        download_bytes=entry.download_bytes,
        classifier_free_guidance=entry.classifier_free_guidance,
        schedulers=entry.schedulers,
        defaults=msgspec.convert(entry.defaults, m.ModelDefaults, from_attributes=True),
        limits=msgspec.convert(entry.sides, m.ModelLimits, from_attributes=True),
        speeds=_speeds(entry, engines),
        source=[
            m.ModelSource(repository=source.repository, revision=commits.get(source.repository, source.revision))
            for source in entry.sources
            if source.repository is not None
        ],
        installed=folder is not None,
        granted=granted,
        runnable=entry.family in RUNNABLE,
        fit=rows,
        recommended=fit.recommend(rows),
        prepared=forms,
        digest=UNSET if folder is None or installed is None else installed.meta.digest,
        path=UNSET if folder is None else str(folder),
    )


def _speeds(entry: Entry, engines: list[str]) -> list[m.ModelSpeed]:
    """What ``speed`` can be with each engine that draws with the model, ``exact`` first."""
    able = [engine for engine in engines if engine == "fake" or entry.family in RUNNABLE]
    return [
        m.ModelSpeed(engine=engine, speed=name, least_steps=least)
        for engine in able
        for name in dict.fromkeys(("exact", *entry.speeds))
        if (least := speeds.least_steps(engine, entry.family, name)) is not None
    ]


def _forms(catalogue: Catalogue, entry: Entry, installed: Installed | None) -> list[m.PreparedForm]:
    """The prepared forms that the installed model has. A folder of the host's is not hashed to find out: its are those
    that were made under its id, and their ``derivedFrom`` tells."""
    from locara_sidecar.models.forms import usable

    store = catalogue.store
    if store is None:
        return []
    own = catalogue.own_folder(entry.id) is not None
    if not own and installed is None:
        return []
    found = [
        form
        for form in usable(store)
        if (made := form.derived_from)
        and (made.model == entry.id if own else installed is not None and made.digest == installed.meta.digest)
    ]
    return [prepared_form(form) for form in found]


def prepared_form(form: Installed) -> m.PreparedForm:
    """A prepared form as ``models.list`` shows it."""
    made = form.derived_from
    assert made is not None
    return m.PreparedForm(
        engine=made.engine,
        quantization=msgspec.convert(made.quantization, Literal["8bit", "4bit"]),
        precision=made.precision,
        digest=form.meta.digest,
        derived_from=made.digest,
        bytes=form.meta.bytes,
    )


def usage_result(report: collect.Report, granted: set[str] | None) -> m.UsageResult:
    """:param granted: only these models' entries; None for all."""
    entries = [
        m.UsageEntry(
            model=model_id,
            digest=model.entry.meta.digest,
            bytes=model.bytes,
            shared_bytes=model.shared,
            last_used=_utc(model.entry.last_used),
            in_use=model.in_use,
            **_of_form(model.entry),
        )
        for model in report.models
        for model_id in model.entry.names
        if granted is None or model_id in granted
    ]
    return m.UsageResult(bytes=report.bytes, reclaimable_bytes=report.reclaimable, entries=entries)


def removed_result(models: list[Installed], freed: int, model_id: str | None = None) -> m.RemovedResult:
    """:param model_id: the id that was removed; None for all ids of each entry."""
    removed = [
        m.RemovedModel(model=name, digest=entry.meta.digest, **_of_form(entry))
        for entry in models
        for name in ([model_id] if model_id is not None else entry.names)
    ]
    return m.RemovedResult(removed=removed, bytes=freed)


def _of_form(entry: Installed) -> dict[str, Any]:
    made = entry.derived_from
    return {} if made is None else {"derived_from": made.digest, "quantization": made.quantization}


def own_result(model_id: str, folder: Path) -> m.InstalledResult:
    """A model that the catalogue has a folder for is there without any download."""
    from locara_sidecar.models.digest import model_digest

    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return m.InstalledResult(model=model_id, digest=model_digest(folder), bytes=size, files=len(files))


def work_result(work: worker.Work, done: worker.Done) -> m.InstalledResult | m.VerifyResult:
    """A worker's last word as the method answers it."""
    if work.op == "verify":
        return m.VerifyResult(model=work.entry.id, digest=done.digest, files=done.files)
    return m.InstalledResult(model=work.entry.id, digest=done.digest, bytes=done.bytes, files=done.files)


def _utc(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds or time.time(), datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
