"""Run one job in the engine process: turn the runtime's events into frames, in order, with previews and timings."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, get_args

import msgspec

from locara_protocol.image_messages import Phase
from locara_sidecar.engine import images
from locara_sidecar.engine.previews.preview import PreviewBudget, PreviewSender
from locara_sidecar.engine.runtime import (
    Control,
    ImageEvent,
    JobCancelled,
    PhaseEvent,
    Runtime,
    RuntimeEvent,
    StepEvent,
)
from locara_sidecar.ipc import frames
from locara_sidecar.ipc.errors import EngineError, sendable

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder

_AUTO_MODES = ("linear", "tiny")  # what "auto" tries, cheapest first
_WARNING = 3000
"""Characters of a warning, which may repeat a prompt; the daemon ends an engine that sends more."""
LOADING_EVERY = 0.1
"""Minimum number of seconds between two frames of the same phase."""

Send = Callable[[frames.Event], None]
Report = Callable[[str, BaseException], None]


class CancelFlag(Control, Protocol):
    """A control that also says whether the job was cancelled."""

    cancelled: bool


def run_job(
    runtime: Runtime, spec: frames.JobSpec, control: CancelFlag, send: Send, report: Report
) -> frames.Done | frames.Failed | frames.Cancelled:
    """Run ``spec`` to its end and return the final frame, which the caller sends.

    :param report: logs an exception (where it came from, never its text).
    """
    run = _Run(runtime, spec, send, report)
    try:
        summary = runtime.generate(spec, run.emit, control)
        run.sender.finish()
        return run.done(summary.settled, summary.warnings)
    except BaseException as error:  # noqa: BLE001  every failure is answered; the engine lives on
        run.sender.finish(encode=False)
        return stopped(spec.job, error, control, report)


def stopped(job: str, error: BaseException, control: CancelFlag, report: Report) -> frames.Failed | frames.Cancelled:
    """Return the final frame for an exception that a runtime raised.

    That is Cancelled if the job was cancelled, whatever the exception; Failed with its own kind for an EngineError; and
    Failed with a fixed text for anything else.
    """
    if isinstance(error, JobCancelled) or control.cancelled:
        return frames.Cancelled(job=job)
    match error:
        case EngineError():
            return frames.Failed(job=job, kind=error.kind, message=error.message, data=error.data)
        case MemoryError():
            report("out of memory", error)
            text = "There is not enough memory for this job."
            return frames.Failed(job=job, kind="InsufficientMemory", message=text)
        case _:
            report("a job failed", error)
            text = "The engine failed unexpectedly; its log says where."
            return frames.Failed(job=job, kind="InternalError", message=text)


class _Run:
    """The state of one job: its current phase, when that began, and what its previews have cost."""

    def __init__(self, runtime: Runtime, spec: frames.JobSpec, send: Send, report: Report) -> None:
        self._runtime = runtime
        self._spec = spec
        self._report = report
        self.sender = PreviewSender(send, spec.preview)
        self._seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)
        self._phase: PhaseEvent | None = None
        self._since = self._told = 0.0
        self._sampled_to = 0.0
        self._modes = list(_AUTO_MODES) if spec.preview.mode == "auto" else [spec.preview.mode]
        if spec.preview.mode == "off":
            self._modes.clear()
        self._budget = PreviewBudget()
        self._warnings: dict[str, str] = {}

    def emit(self, event: RuntimeEvent) -> None:
        """Handle one event of the runtime."""
        match event:
            case PhaseEvent():
                self._enter(event)
            case StepEvent():
                self._step(event)
            case ImageEvent():
                self._image(event)

    def done(self, settled: frames.Settled, warnings: list[tuple[str, str]]) -> frames.Done:
        """Return the final frame of a job that made all its images."""
        self._leave(time.monotonic())
        if self.sender.failed:
            self._warnings.setdefault("PreviewFailed", "A preview could not be encoded.")
        return frames.Done(
            job=self._spec.job,
            engine=self._runtime.name,
            device=self._runtime.device,
            settled=settled,
            load=self._seconds["loading"],
            encode=self._seconds["encoding"],
            denoise=self._seconds["denoising"],
            decode=self._seconds["decoding"],
            peak_memory=self._runtime.peak_memory(),
            peak_allocated=self._runtime.peak_allocated(),
            warnings=[(kind, sendable(text, _WARNING)) for kind, text in (*warnings, *self._warnings.items())],
        )

    def _leave(self, now: float) -> None:
        if self._phase is not None:
            self._seconds[self._phase.phase] += now - self._since
        self._since = now

    def _enter(self, event: PhaseEvent) -> None:
        now = time.monotonic()
        self._leave(now)
        before, self._phase = self._phase, event
        again = before is not None and (before.phase, before.image) == (event.phase, event.image)
        if not again:
            self._sampled_to = now
        elif event.fraction < 1 and now < self._told + LOADING_EVERY:
            return
        self._told = now
        self.sender.put(
            frames.PhaseStarted(job=self._spec.job, phase=event.phase, image=event.image, fraction=event.fraction)
        )

    def _step(self, event: StepEvent) -> None:
        arrived = time.monotonic()
        self._budget.sampled(arrived - self._sampled_to)
        picture = self._preview(event) if self._due(event) else None
        step = frames.Step(job=self._spec.job, image=event.image, step=event.step, steps=event.steps)
        self.sender.put(step, picture)
        self._sampled_to = time.monotonic()
        if picture is not None:
            self._budget.spent(self._sampled_to - arrived)

    def _due(self, event: StepEvent) -> bool:
        if not self._modes:
            return False
        if event.step == 1:
            return True
        wanted = event.step % self._spec.preview.every_steps == 0 or event.step == event.steps
        return wanted and (self._spec.preview.mode != "auto" or self._budget.allows())

    def _preview(self, event: StepEvent) -> tuple[PilImage, PreviewDecoder] | None:
        """Decode the step's x0 on this, the sampling thread. A failure ends the previews, not the job."""
        try:
            while self._modes:
                picture = self._runtime.preview(event.x0, self._modes[0], self._spec.preview.max_side)
                if picture is not None:
                    return picture
                del self._modes[0]  # this model has no such decoder
            if self._spec.preview.mode != "auto":
                what = f"{self._spec.model.id} has no usable decoder for preview.mode {self._spec.preview.mode}"
                self._warnings["PreviewUnavailable"] = f"{what}, so there were no previews; use auto."
        except Exception as error:  # noqa: BLE001
            self._modes.clear()
            self._warnings["PreviewFailed"] = "A preview could not be decoded; this job continues without previews."
            self._report("a preview failed", error)
        return None

    def _image(self, event: ImageEvent) -> None:
        self._leave(time.monotonic())  # encoding the file is not part of the decoding phase
        self._phase = None
        pixels: Any = event.pixels
        settled = event.settled
        asked = (self._spec.width or settled.width, self._spec.height or settled.height)
        if pixels.mode != "RGB" or pixels.size != asked:
            raise EngineError("InvalidOutput", f"The engine made a {pixels.mode} image of {pixels.size} pixels.")
        data = images.encode(pixels, self._spec.output, event.seed, msgspec.to_builtins(settled))
        self.sender.put(
            frames.Image(
                job=self._spec.job,
                image=event.image,
                seed=event.seed,
                data=data,
                mime_type=self._spec.output.mime_type,
                width=asked[0],
                height=asked[1],
            )
        )
