"""Plain frames that test engines send about a job, whether they run in memory or in their own process."""

from __future__ import annotations

import os
from typing import Any

from locara_sidecar.ipc import frames


def ready(start, **changes):
    """Return the answer to a Start."""
    members: dict[str, Any] = {"version": frames.VERSION, "engine": start.engine, "device": "cpu", "pid": os.getpid()}
    return frames.Ready(**(members | changes))


def enter(connection, spec, phase: Any = "denoising"):
    """Report that a phase begins."""
    connection.say(frames.PhaseStarted(job=spec.job, phase=phase, image=1))


def beginning_of_png(width, height):
    """Return just enough of a PNG to give its size."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")


def image_of(spec, **changes):
    """Return the first image of a job; only the beginning of the file is there."""
    members: dict[str, Any] = {"job": spec.job, "image": 1, "seed": spec.seed, "mime_type": "image/png"}
    members |= {"width": spec.width, "height": spec.height, "data": beginning_of_png(spec.width, spec.height)}
    return frames.Image(**(members | changes))


def done_with(spec, settled=None, **changes):
    """Return the frame that ends a job."""
    members: dict[str, Any] = {"quantization": "none", "precision": "float32"}
    members |= {"width": spec.width, "height": spec.height} | (settled or {})
    times: dict[str, Any] = {"load": 0.0, "encode": 0.0, "denoise": 0.0, "decode": 0.0}
    others: dict[str, Any] = {"job": spec.job, "engine": "fake", "device": "cpu", "peak_memory": 1, "warnings": []}
    return frames.Done(settled=frames.Settled(**members), **(times | others | changes))


def finish(connection, spec):
    """Report that a job is done, with one empty image."""
    enter(connection, spec)
    connection.say(image_of(spec), done_with(spec))
