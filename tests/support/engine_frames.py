"""What engines of tests say of a job: plain frames, for those in memory and for those in a process of their own."""

from __future__ import annotations

import os
from typing import Any

from locara_sidecar.ipc import frames


def ready(start, **changes):
    """The answer to a Start."""
    members: dict[str, Any] = {"version": frames.VERSION, "engine": start.engine, "device": "cpu", "pid": os.getpid()}
    return frames.Ready(**(members | changes))


def enter(connection, spec, phase: Any = "denoising"):
    """Tell that a phase begins."""
    connection.say(frames.PhaseStarted(job=spec.job, phase=phase, image=1))


def beginning_of_png(width, height):
    """As much of a PNG as tells its size."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")


def image_of(spec, **changes):
    """The first image of a job, of which there is only the beginning."""
    members: dict[str, Any] = {"job": spec.job, "image": 1, "seed": spec.seed, "mime_type": "image/png"}
    members |= {"width": spec.width, "height": spec.height, "data": beginning_of_png(spec.width, spec.height)}
    return frames.Image(**(members | changes))


def done_with(spec, settled=None, **changes):
    """That a job is done."""
    members: dict[str, Any] = {"quantization": "none", "precision": "float32"}
    members |= {"width": spec.width, "height": spec.height} | (settled or {})
    times: dict[str, Any] = {"load": 0.0, "encode": 0.0, "denoise": 0.0, "decode": 0.0}
    others: dict[str, Any] = {"job": spec.job, "engine": "fake", "device": "cpu", "peak_memory": 1, "warnings": []}
    return frames.Done(settled=frames.Settled(**members), **(times | others | changes))


def finish(connection, spec):
    """Tell that a job is done: one image of nothing."""
    enter(connection, spec)
    connection.say(image_of(spec), done_with(spec))
