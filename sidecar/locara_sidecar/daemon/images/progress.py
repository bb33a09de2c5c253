"""One job's progress as the host sees it: engine events in, ``DiffusionStep`` messages out. Pure except for a clock.

``progress`` never decreases. Its shares: setup (loading and encoding) takes 8 %, then each image an equal part; within
an image, denoising goes up to 92 %, decoding to 98 % and saving takes the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from locara_protocol.image_messages import DiffusionStep, Phase, PreviewImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.ipc import frames

_SETUP = 0.08
_DENOISED, _DECODED = 0.92, 0.98


class Progress:
    """The running state of one job; every method returns the message to send.

    :param clock: seconds, monotonic.
    """

    def __init__(self, job: str, images: int, steps: int, clock: Callable[[], float]) -> None:
        self._job = job
        self._images = images
        self._steps = steps
        self._clock = clock
        self._started = clock()
        self._phase: Phase = "queued"
        self._image = 1
        self._step = 0
        self._progress = 0.0
        self._loaded = 1.0
        self._first_step: float | None = None
        self._step_seconds: float | None = None
        self._step_done = self._started
        self._tail_seconds = 0.0
        self._tail_started: float | None = None

    def phase(self, phase: Phase, image: int, fraction: float = 0.0) -> DiffusionStep:
        """Begin a phase; or report that ``loading`` is ``fraction`` (0…1) done."""
        now = self._clock()
        if phase == "saving" and image < self._image:  # the next one is being drawn already
            told = self._message(self._progress, None)
            return msgspec.structs.replace(told, phase=phase, image=image, step=self._steps)
        if image != self._image:
            if self._tail_started is not None:
                self._tail_seconds = now - self._tail_started
            self._image, self._step = image, 0
        if phase == "denoising" and self._phase != "denoising":
            self._step_done = now
            self._tail_started = None
        if phase == "decoding":
            self._tail_started = now
        self._phase = phase
        if phase == "loading":
            self._loaded = fraction
        # encoding may come between two parts of loading: what is loaded after it must still show
        loaded = 0.6 * _SETUP * self._loaded
        share = {"queued": 0.0, "loading": loaded, "encoding": loaded}.get(phase)
        if share is None or image > 1:
            within = {"decoding": _DENOISED, "saving": _DECODED}.get(phase, 0.0)
            share = self._overall(within)
        return self._message(share, None)

    def step(self, image: int, step: int, steps: int, preview: PreviewImage | None) -> DiffusionStep:
        """Report a finished denoising step."""
        now = self._clock()
        took = now - self._step_done
        self._step_done = now
        # the first step often includes warming up: it counts only until there is a second one
        if self._step_seconds is None or step == 2:
            self._step_seconds = took
        elif step > 2:
            self._step_seconds += 0.3 * (took - self._step_seconds)
        self._phase, self._image, self._step, self._steps = "denoising", image, step, steps
        return self._message(self._overall(_DENOISED * step / max(steps, 1)), preview)

    def done(self) -> DiffusionStep:
        """Report that the last image is in place: the last message of a job that succeeds."""
        self._phase, self._image, self._step = "saving", self._images, self._steps
        return self._message(1.0, None)

    def _overall(self, within: float) -> float:
        return _SETUP + (1 - _SETUP) * (self._image - 1 + within) / self._images

    def _message(self, progress: float, preview: PreviewImage | None) -> DiffusionStep:
        self._progress = max(self._progress, min(progress, 1.0))
        return DiffusionStep(
            job_id=self._job,
            phase=self._phase,
            image=self._image,
            images=self._images,
            step=self._step,
            steps=self._steps,
            progress=round(self._progress, 4),
            elapsed_ms=int((self._clock() - self._started) * 1000),
            eta_ms=self._eta(),
            preview=UNSET if preview is None else preview,
        )

    def _eta(self) -> int | UnsetType:
        if self._step_seconds is None:
            return UNSET
        left = self._steps - self._step + (self._images - self._image) * self._steps
        tails = self._images - self._image + (self._phase != "saving")
        return int((left * self._step_seconds + tails * self._tail_seconds) * 1000)


def preview_image(preview: frames.Preview | None) -> PreviewImage | None:
    """Convert a preview to the wire's type."""
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
