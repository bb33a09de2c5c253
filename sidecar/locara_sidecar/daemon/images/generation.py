"""One accepted image call when its turn comes: load, draw, save, answer.

A job's last images are saved before the engine takes the next job, so that the answer always says what is on disk.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import DiffusionStep, GenerateParams, GenerateResult, ModelUsed, Timings, Warning
from locara_protocol.records import Record
from locara_sidecar.daemon.images.progress import Progress, preview_image
from locara_sidecar.daemon.jobs.job_runner import JobContext, cancelled_error, stopping
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.daemon.wire.user_files import UserFiles, close
from locara_sidecar.ipc import frames
from locara_sidecar.machine import supported

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.capability.files.picked import PickedTarget
    from locara_sidecar.daemon.images.resolve import Resolved
    from locara_sidecar.daemon.images.saving import Saver
    from locara_sidecar.daemon.images.source_images import EditFiles, SourceImages
    from locara_sidecar.daemon.jobs.jobs import Job
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.models.catalogue import Entry


class GenerationRequest(Record, frozen=True):
    """What a queued job will do; ``accepted`` is monotonic time; ``target`` is a picked file to save to."""

    call: Call
    params: GenerateParams
    entry: Entry
    grant: Grant
    resolved: Resolved
    accepted: float
    sources: SourceImages | None = None
    target: PickedTarget | None = None

    def hold(self) -> None:
        """Keep the picked files open until :meth:`aclose`, even if they are released meanwhile."""
        if self.sources is not None:
            self.sources.hold()
        if self.target is not None:
            self.target.hold()

    async def aclose(self) -> None:
        """Release what was held."""
        if self.sources is not None:
            await self.sources.aclose()
        if self.target is not None and self.target.leave():
            await close([self.target.close])

    @property
    def steps(self) -> int:
        """Return how many steps an image will take, as far as is known before the engine runs."""
        options = self.resolved.options
        if options.strength is UNSET:
            return options.steps
        return supported.steps_at(self.entry.family, options.strength, options.steps)

    def job_spec(self, job: str, model: frames.ModelSpec, files: EditFiles | None) -> frames.JobSpec:
        """Build the engine's description of the job.

        :param files: what an edit starts from.
        """
        options, edit, hashes = self.resolved.options, None, {}
        if files is not None:
            strength = None if options.strength is UNSET else options.strength
            edit = frames.EditSpec(images=files.images, mask=files.mask, strength=strength, listed=files.listed)
            hashes = files.hashes
        return frames.JobSpec(
            **msgspec.structs.asdict(options),
            job=job,
            model=model,
            prompt=self.params.prompt,
            preview=self.resolved.preview,
            output=self.resolved.encoding(self.params.prompt, model, hashes),
            edit=edit,
        )


class Generation:
    """The :class:`~locara_sidecar.daemon.jobs.job_runner.JobTask` of one request."""

    def __init__(self, job: Job, request: GenerationRequest, shared: JobContext) -> None:
        self._job = job
        job.prompt = request.params.prompt
        job.size = request.resolved.options.width, request.resolved.options.height
        self._request = request
        self._shared = shared
        request.hold()
        self._files = UserFiles()
        self._progress = Progress(job.id, request.resolved.options.count, request.steps, time.monotonic)

    def queued(self) -> None:
        """Report on the channel that the job is waiting."""
        self._tell(self._progress.phase("queued", 1))

    async def run(self) -> GenerateResult:
        """Run the job.

        :raises RpcError: with the finished images in ``images``, unless nothing was begun.
        """
        job, request = self._job, self._request
        started = time.monotonic()
        self._tell(self._progress.phase("loading", 1))
        make_saver = await off_loop(_saver)
        saver = make_saver(
            grant=request.grant,
            output=request.resolved.output,
            target=request.target,
            count=request.resolved.options.count,
            on_saving=lambda image: self._tell(self._progress.phase("saving", image)),
            cancelled=lambda: job.cancel_requested,
            files=self._files,
        )
        try:
            with self._files.heeding():
                await saver.open()
                files = None if request.sources is None else await request.sources.read()
            async with self._held() as model:
                if job.cancel_requested:
                    raise cancelled_error([])
                self._shared.start_task(saver.run)
                done = await self._drive(request.job_spec(job.id, model, files), saver)
            result = _result(job, request, model, files, done, saver, started)
        finally:
            await saver.aclose()
        self._tell(self._progress.done())
        return result

    def _held(self) -> AbstractAsyncContextManager[frames.ModelSpec]:
        request = self._request
        options = request.resolved.options
        return self._shared.use.held(
            request.call,
            request.grant,
            request.entry,
            quantization=options.quantization,
            precision=options.precision,
            sides=request.resolved.sides,
            read=stopping(self._job),
        )

    def cancel(self) -> None:
        """Stop the job in the engine, and end all waits for files."""
        self._files.cancel()
        self._shared.engine.cancel(self._job.id)

    async def aclose(self) -> None:
        """Release its files."""
        await self._request.aclose()

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
        self._shared.tell(self._job, message)


def _saver() -> type[Saver]:
    from locara_sidecar.daemon.images.saving import Saver  # not needed before the first job

    return Saver


def _result(
    job: Job,
    request: GenerationRequest,
    model: frames.ModelSpec,
    files: EditFiles | None,
    done: frames.Done,
    saver: Saver,
    started: float,
) -> GenerateResult:
    def ms(seconds: float) -> int:
        return round(seconds * 1000)

    options = request.resolved.shown(model.id) | msgspec.to_builtins(done.settled)
    sources = {} if files is None else files.shown
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
        parameters={"prompt": request.params.prompt, **sources, "options": options},
        timings=Timings(
            queued_ms=ms(started - request.accepted),
            load_ms=ms(done.load),
            encode_ms=ms(done.encode),
            denoise_ms=ms(done.denoise),
            decode_ms=ms(done.decode),
            save_ms=ms(saver.seconds),
            total_ms=ms(time.monotonic() - request.accepted),
        ),
        peak_memory_bytes=done.peak_memory,
        warnings=[
            *request.resolved.warnings,
            *(Warning(kind=kind, message=message) for kind, message in done.warnings),
        ],
        peak_allocated_bytes=UNSET if done.peak_allocated is None else done.peak_allocated,
    )
