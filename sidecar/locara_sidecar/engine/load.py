"""Load or prepare a model ahead of its first job, in the engine process, turning the runtime's events into frames."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from locara_sidecar.engine.job import LOADING_EVERY, CancelFlag, Report, Send, stopped
from locara_sidecar.engine.runtime import Emit, PhaseEvent, Runtime, RuntimeEvent
from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable


def run_load(
    runtime: Runtime,
    spec: frames.LoadSpec,
    control: CancelFlag,
    send: Send,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> frames.Loaded | frames.Failed | frames.Cancelled:
    """Load the model of ``spec`` and return the final frame, which the caller sends.

    :param report: logs an exception (where it came from, never its text).
    """
    try:
        loaded = runtime.load(spec, _emitter(spec.job, send, clock), control)
    except BaseException as error:  # noqa: BLE001  every failure is answered; the engine lives on
        return stopped(spec.job, error, control, report)
    return frames.Loaded(
        job=spec.job,
        engine=runtime.name,
        device=runtime.device,
        quantization=loaded.quantization,
        precision=loaded.precision,
        memory=loaded.memory,
    )


def run_prepare(
    runtime: Runtime,
    spec: frames.PrepareSpec,
    control: CancelFlag,
    send: Send,
    report: Report,
    clock: Callable[[], float] = time.monotonic,
) -> frames.Prepared | frames.Failed | frames.Cancelled:
    """Prepare the model of ``spec``; otherwise like :func:`run_load`."""
    try:
        made = runtime.prepare(spec, _emitter(spec.job, send, clock), control)
    except BaseException as error:  # noqa: BLE001  every failure is answered; the engine lives on
        return stopped(spec.job, error, control, report)
    return frames.Prepared(
        job=spec.job,
        quantization=made.quantization,
        precision=made.precision,
        components=made.components,
        there=made.there,
    )


def _emitter(job: str, send: Send, clock: Callable[[], float]) -> Emit:
    """Return a callback that sends phases as frames; intermediate ones are rate-limited."""
    told: float | None = None

    def emit(event: RuntimeEvent) -> None:
        nonlocal told
        if not isinstance(event, PhaseEvent):
            raise AssertionError(f"loading a model emits phases only, not {type(event).__name__}")
        now = clock()
        if told is None or event.fraction >= 1 or now >= told + LOADING_EVERY:
            told = now
            send(frames.PhaseStarted(job=job, phase=event.phase, image=1, fraction=event.fraction))

    return emit
