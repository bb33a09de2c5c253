"""One accepted image call at its turn: load, draw, save, answer.

Saving the last images of a job may overlap with nothing else, so that the answer always tells what is on disk.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import DiffusionStep, GenerateParams, GenerateResult, ModelUsed, Timings, Warning
from locara_sidecar.capability.authorize import Grant
from locara_sidecar.daemon import resolve
from locara_sidecar.daemon.calls import Call
from locara_sidecar.daemon.model_specs import on_this_machine
from locara_sidecar.daemon.progress import Progress, last_state, preview_image
from locara_sidecar.daemon.source_images import EditFiles, SourceImages
from locara_sidecar.daemon.turns import Shared, cancelled_error, stopping
from locara_sidecar.engine import frames
from locara_sidecar.models.catalogue import Entry

if TYPE_CHECKING:
    from locara_sidecar.daemon.jobs import Job
    from locara_sidecar.daemon.model_choice import ModelChoice
    from locara_sidecar.daemon.saving import Saver


class Order(msgspec.Struct, frozen=True):
    """What a queued job will do; ``accepted`` on the monotonic clock."""

    call: Call
    params: GenerateParams
    entry: Entry
    grant: Grant
    output: resolve.Output
    seed: int
    accepted: float
    sources: SourceImages | None = None

    @property
    def count(self) -> int:
        return (self.params.options and self.params.options.count) or 1

    @property
    def steps(self) -> int:
        """How many steps an image will take, for all that is known before the engine runs."""
        steps = (self.params.options and self.params.options.steps) or self.entry.defaults.steps
        strength = resolve.strength_of(self.params, self.entry)
        return steps if strength is None else frames.steps_at(self.entry.family, strength, steps)

    def resolve(
        self, models: ModelChoice, *, job: str, digest: str, files: EditFiles | None = None
    ) -> resolve.Resolved:
        """:raises RpcError: InvalidParams, for what the model does not allow."""
        return resolve.resolve(
            self.params,
            self.entry,
            job=job,
            folder=str(models.folder(self.entry.id) or ""),
            digest=digest,
            engine="auto" if models.fake else models.engine,
            seed=self.seed,
            output=self.output,
            files=files,
        )


class Generation:
    """The :class:`~locara_sidecar.daemon.turns.Work` of one order."""

    def __init__(self, job: Job, order: Order, shared: Shared) -> None:
        self._job = job
        self._order = order
        self._shared = shared
        self._progress = Progress(job.id, order.count, order.steps, time.monotonic)

    def queued(self) -> None:
        self._tell(self._progress.phase("queued", 1))

    async def run(self) -> GenerateResult:
        """:raises RpcError: with ``images``, what was finished before, unless nothing was begun."""
        from locara_sidecar.daemon.saving import Saver  # not needed before the first job

        job, order = self._job, self._order
        started = time.monotonic()
        self._tell(self._progress.phase("loading", 1))
        saver = Saver(
            grant=order.grant,
            output=order.output,
            count=order.count,
            on_saving=lambda image: self._tell(self._progress.phase("saving", image)),
            cancelled=lambda: job.cancel_requested,
        )
        await saver.open()
        try:
            files = None if order.sources is None else await order.sources.read()
            digest = await self._shared.models.digest(order.call, order.entry.id, stopping(job))
            resolved = order.resolve(self._shared.models, job=job.id, digest=digest, files=files)
            if job.cancel_requested:
                raise cancelled_error([])
            self._shared.start_task(saver.run)
            model, models = resolved.spec.model, self._shared.models
            folder = models.files(order.entry.id)
            with self._shared.use.held(order.grant, order.entry, folder, models.forms(model)) as held:
                done = await self._drive(on_this_machine(resolved.spec, held), saver)
            return _result(job, order, resolved, done, saver, started)
        finally:
            await saver.aclose()

    def cancel(self) -> None:
        self._shared.engine.cancel(self._job.id)

    def close(self) -> None:
        if self._order.sources is not None:
            self._order.sources.close()

    async def _drive(self, spec: frames.JobSpec, saver: Saver) -> frames.Done:
        def on_event(event: frames.Event) -> None:
            if isinstance(event, frames.PhaseStarted):
                self._tell(self._progress.phase(event.phase, event.image, event.fraction))
            elif isinstance(event, frames.Step):
                self._tell(self._progress.step(event.image, event.step, event.steps, preview_image(event.preview)))
            elif isinstance(event, frames.Image):
                saver.put(event)

        saver.on_failure = partial(self._shared.engine.cancel, spec.job)
        try:
            done = await self._shared.engine.run(spec, on_event)
        except RpcError as error:
            await saver.finish()
            failure = saver.failure or error
            failure.data["images"] = msgspec.to_builtins(saver.images)
            raise failure from error
        await saver.finish()
        if saver.failure is not None:
            saver.failure.data["images"] = msgspec.to_builtins(saver.images)
            raise saver.failure
        if len(saver.images) < spec.count:
            raise cancelled_error(saver.images)
        return done

    def _tell(self, message: DiffusionStep) -> None:
        self._job.last = last_state(message)
        if self._job.channel is not None:
            self._shared.outbox.push(self._job.channel, message)


def _result(
    job: Job, order: Order, resolved: resolve.Resolved, done: frames.Done, saver: Saver, started: float
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
        peak_allocated_bytes=UNSET if done.peak_allocated is None else done.peak_allocated,
    )
