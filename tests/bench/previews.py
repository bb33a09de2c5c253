"""What default previews (``auto``) cost: the same jobs with and without them, alternately.

Run by ``make bench``; only the engine's code runs, without a daemon.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bench.quality import found, job_for
from locara_sidecar.engine.drawing.staged import StagedRuntime
from locara_sidecar.engine.job import run_job
from locara_sidecar.engine.previews.preview import BLINK
from locara_sidecar.engine.torch_engine.runtime import TorchBackend
from locara_sidecar.ipc import frames
from support.measuring import Row

if TYPE_CHECKING:
    from locara_sidecar.models import catalogue


class _Control:
    cancelled = False

    def checkpoint(self) -> None:
        """Nothing stops these jobs."""


class _Watched(StagedRuntime):
    """Measures how long the sampling thread was busy with previews."""

    spent = 0.0

    def preview(self, x0: Any, mode: str, max_side: int) -> Any:
        began = time.perf_counter()
        try:
            return super().preview(x0, mode, max_side)
        finally:
            self.spent += time.perf_counter() - began


def measure(known: catalogue.Catalogue, name: str, rounds: int) -> list[Row]:
    """The share of sampling that previews take on its thread, and what they cost in all, their compression included."""
    shares, ratios, plain, sent = [], [], [], 0
    entry, folder = found(known, name)
    job = job_for(entry, folder)
    with tempfile.TemporaryDirectory() as scratch:
        runtime = _Watched(TorchBackend(scratch))
        for turn in range(rounds + 1):
            took = {}
            for mode in ("off", "auto"):
                runtime.spent = 0.0
                events: list[Any] = []
                preview = msgspec.structs.replace(job.preview, mode=mode, max_side=256, max_bytes=5632)
                drawn = msgspec.structs.replace(job, prompt="a red circle", seed=turn, preview=preview)
                done = run_job(runtime, drawn, _Control(), events.append, _raise)
                assert isinstance(done, frames.Done)
                took[mode] = done.denoise
            if turn == 0:
                continue  # loading
            plain.append(took["off"])
            shares.append(runtime.spent / (took["auto"] - runtime.spent))
            ratios.append(took["auto"] / took["off"])
            sent += sum(isinstance(event, frames.Step) and event.preview is not None for event in events)
    goal = max(0.03, BLINK / (statistics.median(plain) / job.steps))
    what = f"{entry.id}, {rounds} x {job.steps} steps, {sent} previews"
    return [
        # 3 % of the sampling, or what nobody sees: fast steps have every preview
        Row(f"previews auto, share of sampling: {entry.id}", statistics.median(shares), "", goal, what),
        Row(f"denoising with previews auto / off: {entry.id}", statistics.median(ratios), "x", None, what),
    ]


def _raise(what: str, error: BaseException) -> None:
    del what
    raise error
