"""``image.generate`` from the accepted call to its answer: check, queue, run, save, answer.

Owns the job queue. One job has the engine at a time; saving the last images of a job may overlap with
nothing else, so that the answer always tells what is on disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.messages import (
    U32_MAX,
    DiffusionStep,
    GenerateOptions,
    GenerateParams,
    GenerateResult,
    ModelUsed,
    PreviewImage,
    Timings,
    Warning,
)
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import Grant, Wanted, authorize
from locara_sidecar.daemon import resolve
from locara_sidecar.daemon.jobs import Job, JobQueue
from locara_sidecar.daemon.progress import Progress, last_state
from locara_sidecar.engine import frames
from locara_sidecar.models.catalogue import RUNNABLE, Catalogue, Entry

if TYPE_CHECKING:
    from locara_sidecar.capability.policy import Policy
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.model_use import ModelUse
    from locara_sidecar.daemon.outbox import Outbox
    from locara_sidecar.daemon.saving import Saver
    from locara_sidecar.engine.lazy import LazyEngine

log = logging.getLogger("locara.jobs")


class _Order(msgspec.Struct, frozen=True):
    """What a queued job will do."""

    params: GenerateParams
    entry: Entry
    grant: Grant
    output: resolve.Output
    seed: int
    accepted: float


class Generations:
    """The long calls of the session.

    :param start_task: starts a coroutine function in the daemon's task group.
    :param policy: gives the session's policy as it is now.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        engine: LazyEngine,
        engine_name: str,
        catalogue: Catalogue,
        queue: JobQueue,
        policy: Callable[[], Policy],
        record: Callable[[Call, Wanted, Grant | RpcError], None],
        start_task: Callable[..., object],
    ) -> None:
        self._outbox = outbox
        self._engine = engine
        self._engine_name = engine_name
        self._catalogue = catalogue
        self._queue = queue
        self._policy = policy
        self._record = record
        self._start_task = start_task
        self._calls: dict[str, tuple[Call, _Order]] = {}
        self._proven: set[str] = set()  # models whose pinned digest was found to hold
        # set when no job is left; made with the first, because making one imports asyncio
        self._idle: anyio.Event | None = None
        self._use: ModelUse | None = None

    # --- accepting -----------------------------------------------------------------------

    def accept(self, call: Call, params: GenerateParams) -> None:
        """Check a call in the contract's order and queue it; its answer comes later.

        :raises RpcError: for whatever the checks find.
        """
        output = resolve.check_request(params)
        grant = self._authorize(call, params, output)
        entry = self._choose(grant.models, explicit=params.options is not None and params.options.model is not None)
        self._proven.add(entry.id)
        self._check_engine(params.options or GenerateOptions(), entry)
        count = (params.options and params.options.count) or 1
        order = _Order(params, entry, grant, output, _random_seed(count), time.monotonic())
        self._resolve(order, "check", digest="")
        self._queue.check_room()
        job = Job(self._queue.next_id(), call.id, call.method, call.channel)
        job.model = entry.id
        self._queue.add(job)
        self._calls[job.id] = (call, order)
        if self._idle is None or self._idle.is_set():
            self._idle = anyio.Event()
        steps = (params.options and params.options.steps) or entry.defaults.steps
        progress = Progress(job.id, count, steps, time.monotonic)
        self._emit(job, progress.phase("queued", 1))
        self._pump(progress_of={job.id: progress})

    def _authorize(self, call: Call, params: GenerateParams, output: resolve.Output) -> Grant:
        asked = params.options.model if params.options else None
        models = (asked,) if asked else tuple(entry.id for entry in self._catalogue)
        wanted = Wanted(
            models=models,
            digests=_Digests(self._folder),
            root=output.root if output.save else None,
            access="write",
            installed=tuple(entry.id for entry in self._catalogue if self._folder(entry.id) is not None),
        )
        try:
            grant = authorize(self._policy(), METHODS[call.method], wanted)
        except RpcError as denied:
            self._record(call, wanted, denied)
            raise
        self._record(call, wanted, grant)
        return grant

    def _choose(self, models: tuple[str, ...], *, explicit: bool) -> Entry:
        entries = [entry for model in models if (entry := self._catalogue.get(model)) is not None]
        if not entries:
            known = ", ".join(entry.id for entry in self._catalogue)
            raise RpcError(
                "ModelNotFound", f"There is no model {models[0]} in the catalogue; it has {known}.", model=models[0]
            )
        installed = [entry for entry in entries if self._folder(entry.id) is not None]
        if installed:
            # a model that no engine runs is the default only where there is no other
            return next((entry for entry in installed if entry.family in RUNNABLE), installed[0])
        which = entries[0].id
        advice = "" if explicit else " None of the granted models is."
        raise RpcError("ModelNotInstalled", f"The model {which} is not installed on this machine.{advice}", model=which)

    def _folder(self, model_id: str) -> Path | None:
        folder = self._catalogue.folder(model_id)
        # the fake engine needs no weights: every model counts as installed
        return Path() if folder is None and self._engine_name == "fake" and self._catalogue.get(model_id) else folder

    def _check_engine(self, options: GenerateOptions, entry: Entry) -> None:
        if options.engine not in (None, "auto", self._engine_name) and self._engine_name != "fake":
            raise RpcError(
                "EngineUnavailable",
                f"This sidecar runs the {self._engine_name} engine, not {options.engine}.",
                engine=options.engine,
            )
        if entry.family not in RUNNABLE and self._engine_name != "fake":
            message = f"No engine of this version runs {entry.display_name} yet."
            raise RpcError("EngineUnavailable", message, model=entry.id, family=entry.family)

    def _resolve(self, order: _Order, job: str, *, digest: str) -> resolve.Resolved:
        return resolve.resolve(
            order.params,
            order.entry,
            job=job,
            folder=str(self._folder(order.entry.id) or ""),
            digest=digest,
            engine="auto" if self._engine_name == "fake" else self._engine_name,
            seed=order.seed,
            output=order.output,
        )

    def readable(self) -> list[str]:
        """The folders of granted and installed models, which the engine may read.

        A pinned model counts once a call has found that its digest holds: until then it is not granted, and
        hashing it here would take long.
        """
        manifest = self._policy().manifest
        declared = () if manifest is None else manifest.models
        granted = {model.id for model in declared if model.digest is None or model.id in self._proven}
        folders = [folder for entry in self._catalogue if entry.id in granted and (folder := self._folder(entry.id))]
        return [str(folder) for folder in folders if folder.is_absolute()]

    # --- cancelling ----------------------------------------------------------------------

    def cancel(self, job: Job) -> None:
        """Cancel a queued or running job: a queued one is answered now, a running one when it has stopped."""
        job.cancel_requested = True
        if job.state == "queued":
            self._finish(job, "cancelled", cancelled_error([]))
        else:
            self._engine.cancel(job.id)

    def cancel_all(self) -> None:
        for job in reversed(self._queue.all()):  # the waiting ones first, so that none of them starts
            self.cancel(job)

    async def wait_until_idle(self) -> None:
        """Return when no job is left."""
        if self._idle is not None:
            await self._idle.wait()

    # --- running -------------------------------------------------------------------------

    def _pump(self, progress_of: Mapping[str, Progress] | None = None) -> None:
        job = self._queue.next_waiting()
        if job is None:
            if self._idle is not None and not self._queue.all():
                self._idle.set()
            return
        job.move("running")
        _, order = self._calls[job.id]
        options = order.params.options or GenerateOptions()
        progress = (progress_of or {}).get(job.id) or Progress(
            job.id, options.count or 1, options.steps or order.entry.defaults.steps, time.monotonic
        )
        self._start_task(self._run, job, order, progress)

    async def _run(self, job: Job, order: _Order, progress: Progress) -> None:
        try:
            result = await self._make(job, order, progress)
        except RpcError as error:
            self._finish(job, "cancelled" if error.kind == "RequestCancelled" else "failed", error)
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            self._finish(job, "failed", error)
        else:
            self._finish(job, "done", result)

    def _finish(self, job: Job, state: Any, outcome: GenerateResult | Exception) -> None:
        call, _ = self._calls.pop(job.id)
        job.move(state)
        self._queue.remove(job)
        if isinstance(outcome, RpcError):
            call.fail(outcome)
        elif isinstance(outcome, Exception):
            call.fail_unexpectedly(outcome)
        else:
            call.succeed(outcome)
        self._pump()

    async def _make(self, job: Job, order: _Order, progress: Progress) -> GenerateResult:
        from locara_sidecar.daemon.saving import Saver  # not needed before the first job

        started = time.monotonic()
        self._emit(job, progress.phase("loading", 1))
        saver = Saver(
            grant=order.grant,
            output=order.output,
            count=(order.params.options and order.params.options.count) or 1,
            on_saving=lambda image: self._emit(job, progress.phase("saving", image)),
            cancelled=lambda: job.cancel_requested,
        )
        await saver.open()
        try:
            folder = self._folder(order.entry.id)
            digest = "" if not folder or self._engine_name == "fake" else await _digest(order.entry.id, folder)
            resolved = self._resolve(order, job.id, digest=digest)
            _stop_if_cancelled(job, saver)
            self._start_task(saver.run)
            with self._using(order.entry, folder):
                done = await self._drive(job, resolved.spec, progress, saver)
            return _result(job, order, resolved, done, saver, started)
        finally:
            await saver.aclose()

    @contextlib.contextmanager
    def _using(self, entry: Entry, folder: Path | None) -> Generator[None]:
        """Keep the model from being collected, and its memory in other daemons' sight."""
        store = self._catalogue.store
        if store is None or not folder or self._engine_name == "fake":
            yield
            return
        if self._use is None:
            from locara_sidecar.daemon.model_use import ModelUse

            self._use = ModelUse(store, self._engine.status, self._start_task)
        self._use.begin(entry, folder)
        try:
            yield
        finally:
            self._use.end()

    async def _drive(self, job: Job, spec: frames.JobSpec, progress: Progress, saver: Saver) -> frames.Done:
        def on_event(event: frames.Event) -> None:
            if isinstance(event, frames.PhaseStarted):
                self._emit(job, progress.phase(event.phase, event.image, event.fraction))
            elif isinstance(event, frames.Step):
                self._emit(job, progress.step(event.image, event.step, event.steps, _preview(event.preview)))
            elif isinstance(event, frames.Image):
                saver.put(event)

        saver.on_failure = partial(self._engine.cancel, job.id)
        try:
            done = await self._engine.run(spec, on_event)
        except RpcError as error:
            await saver.finish()
            failure = saver.failure or error
            if failure.kind == "RequestCancelled":
                failure = cancelled_error(saver.images)
            else:
                failure.data["images"] = msgspec.to_builtins(saver.images)
            raise failure from error
        await saver.finish()
        if saver.failure is not None:
            saver.failure.data["images"] = msgspec.to_builtins(saver.images)
            raise saver.failure
        if len(saver.images) < spec.count:
            raise cancelled_error(saver.images)
        return done

    def _emit(self, job: Job, message: DiffusionStep) -> None:
        job.last = last_state(message)
        if job.channel is not None:
            self._outbox.push(job.channel, message)


def _random_seed(count: int) -> int:
    """A seed from which ``count`` images can be counted up."""
    return int.from_bytes(os.urandom(8)) % (U32_MAX + 2 - count)


class _Digests(Mapping[str, str]):
    """Installed models' digests, computed only for the models that a manifest pins."""

    def __init__(self, folder: Callable[[str], Path | None]) -> None:
        self._folder = folder

    def __getitem__(self, model_id: str) -> str:
        folder = self._folder(model_id)
        if not folder or not folder.parts:
            raise KeyError(model_id)
        from locara_sidecar.models.digest import model_digest

        return model_digest(folder)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


async def _digest(model_id: str, folder: Path) -> str:
    from locara_sidecar.models.digest import model_digest

    try:
        return await anyio.to_thread.run_sync(model_digest, folder)
    except OSError as error:
        raise RpcError("ModelIncomplete", f"A file of {model_id} cannot be read.", model=model_id) from error


def _stop_if_cancelled(job: Job, saver: Saver) -> None:
    if job.cancel_requested:
        raise cancelled_error(saver.images)


def cancelled_error(images: list[Any]) -> RpcError:
    """The answer to a cancelled request; ``images`` are those that were finished before."""
    return RpcError("RequestCancelled", "The request was cancelled.", images=msgspec.to_builtins(images))


def _preview(preview: frames.Preview | None) -> PreviewImage | None:
    if preview is None:
        return None
    import base64

    return PreviewImage(
        mime_type=preview.mime_type,
        width=preview.width,
        height=preview.height,
        data=base64.b64encode(preview.data).decode("ascii"),
        decoder=preview.decoder,
    )


def _result(
    job: Job, order: _Order, resolved: resolve.Resolved, done: frames.Done, saver: Saver, started: float
) -> GenerateResult:
    def ms(seconds: float) -> int:
        return round(seconds * 1000)

    settled: dict[str, Any] = msgspec.to_builtins(done.settled)
    options = resolved.parameters["options"] | settled
    model = resolved.spec.model
    return GenerateResult(
        job_id=job.id,
        images=saver.images,
        model=ModelUsed(
            id=model.id,
            version=model.version,
            digest=model.digest,
            engine=done.engine,
            device=done.device,
            quantization=done.settled.quantization,
            precision=done.settled.precision,
        ),
        parameters=resolved.parameters | {"options": options},
        timings=Timings(
            queued_ms=ms(started - order.accepted),
            load_ms=ms(done.load),
            encode_ms=ms(done.encode),
            denoise_ms=ms(done.denoise),
            decode_ms=ms(done.decode),
            save_ms=ms(saver.seconds),
            total_ms=ms(time.monotonic() - order.accepted),
        ),
        peak_memory_bytes=done.peak_memory,
        warnings=[*resolved.warnings, *(Warning(kind=kind, message=message) for kind, message in done.warnings)],
    )
