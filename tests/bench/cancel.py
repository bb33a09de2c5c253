"""From the cancel line to its -32800 answer, in each phase: at random moments, while queued or saving at once."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from locara_protocol.client import RemoteError, Sidecar
from support.measuring import Row, host, percentile

STEPS = 4
TRIES = 8
"""For each cancel that should land while a picture is being saved."""


def measure(model: dict[str, Any], catalogue: Path, runs: int) -> list[Row]:
    """p95 for each phase; inside a step also as a part of the step (goal 1/4)."""
    chance = random.Random(1)
    side = model["defaults"]["width"]
    options = {"model": model["id"], "steps": STEPS, "seed": 1, "width": side, "height": side}
    words = ("--engine", "torch", "--catalogue", str(catalogue))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        loading: list[float] = []
        with host(Path(folder), *words, models=(model["id"],)) as sidecar:
            length = _loading(sidecar, options)
        for _ in range(max(3, runs // 4)):
            with host(Path(folder), *words, models=(model["id"],)) as sidecar:
                loading += _cancel(sidecar, options, "loading", 0.9 * chance.random() * length)
        rows.append(Row("cancel while loading, p95", percentile(loading, 0.95), "ms", None, f"{len(loading)} cancels"))
        with host(Path(folder), *words, models=(model["id"],)) as sidecar:
            times = sidecar.call("image.generate", {"prompt": "warm", "options": options})["timings"]
            step = times["denoiseMs"] / STEPS
            phases = {
                "queued": 0.0,
                "encoding": times["encodeMs"],
                "denoising": step * STEPS,
                "decoding": times["decodeMs"],
            }
            for phase, length in phases.items():
                taken: list[float] = []
                for _ in range(runs):
                    first = (
                        sidecar.start("image.generate", {"prompt": "first", "options": options})
                        if phase == "queued"
                        else None
                    )
                    taken += _cancel(sidecar, options, phase, 0.9 * chance.random() * length / 1000)
                    if first is not None:
                        first.cancel()
                        _ended(first)
                rows.append(
                    Row(f"cancel while {phase}, p95", percentile(taken, 0.95), "ms", None, f"{len(taken)} cancels")
                )
                if phase == "denoising":
                    median = statistics.median(taken)
                    rows.append(
                        Row(
                            "cancel inside a step, p95 / step",
                            percentile(taken, 0.95) / step,
                            "x",
                            0.25,
                            f"median {median / step:.2f}",
                        )
                    )
            rows.append(_saving(sidecar, options, runs))
    return rows


def _saving(sidecar: Sidecar, options: dict[str, Any], runs: int) -> Row:
    """Send cancels as soon as the host learns of the save, which takes a few ms. Some come too late and are answered
    with the picture; for each of these another one is tried, with a picture of one step.

    :raises RuntimeError: if not a single one came in time.
    """
    taken: list[float] = []
    tried = 0
    while len(taken) < runs and tried < TRIES * runs:
        taken += _cancel(sidecar, options | {"steps": 1}, "saving", 0.0)
        tried += 1
    if not taken:
        raise RuntimeError(f"each of {tried} pictures was published before its cancel was read")
    note = f"{len(taken)} cancels of {tried} in time"
    return Row("cancel while saving, p95", percentile(taken, 0.95), "ms", None, note)


def _loading(sidecar: Sidecar, options: dict[str, Any]) -> float:
    """Return the seconds from the start of a job to the end of loading, when no engine is running yet."""
    call = sidecar.start("image.generate", {"prompt": "cold", "options": options}, stream=True)
    began = time.perf_counter()
    for message in call.messages():
        if message["phase"] not in ("queued", "loading"):
            break
    took = time.perf_counter() - began
    call.cancel()
    _ended(call)
    return took


def _cancel(sidecar: Sidecar, options: dict[str, Any], phase: str, after: float) -> list[float]:
    """Cancel once, ``after`` seconds into a phase; the result is empty if the picture was finished first."""
    prompt = f"cancelled in {phase} {time.perf_counter_ns()}"  # a new prompt, so that it must be encoded
    call = sidecar.start("image.generate", {"prompt": prompt, "options": options}, stream=True)
    for message in call.messages():
        if message["phase"] == phase:
            break
    time.sleep(after)
    began = time.perf_counter()
    call.cancel()
    return [(time.perf_counter() - began) * 1000] if _ended(call) else []


def _ended(call: Any) -> bool:
    """Wait for the answer; return whether it was RequestCancelled."""
    try:
        call.result()
    except RemoteError as error:
        if error.kind != "RequestCancelled":
            raise
        return True
    return False
