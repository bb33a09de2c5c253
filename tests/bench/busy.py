"""Drawing while other programs use the processor, compared with plain diffusers under the same load.

A desktop is never idle. The other programs are endless loops at the usual priority: none, one, and one for each core.
Both sides draw the same picture, alternately, and each goes first as often as the other. The quiet turns come first:
how the engine's threads wait depends on the machine's load some seconds ago (:mod:`.torch_engine.waiting`).
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench.direct import Direct
from bench.quality import found
from support.measuring import Row, host, seconds_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from locara_sidecar.models import catalogue

_PROMPT = "a large red circle in the center of a blue background"
_MOST_STEPS = 12
_SAME_WORK = {"preview": {"mode": "off"}, "output": {"mode": "inline"}}
"""What plain diffusers does: a picture, with nothing to look at meanwhile and no file."""
_MOST_SLOWED = 3.0
"""Times the quiet time, with one of two cores taken: half of the processor is left, the rest is for sharing badly."""


@contextlib.contextmanager
def other_programs(count: int) -> Generator[None]:
    """Run ``count`` processes that never pause."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)  # until then they have started, and the scheduler has placed them
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(known: catalogue.Catalogue, name: str, entries: Path, rounds: int) -> list[Row]:
    """Measure both sides under each load.

    :param known: a catalogue with the model ``name``, which is of the SD 3 family.
    :param entries: the folder with the entries that are not the package's own.
    """
    cores = os.cpu_count() or 1
    entry, folder = found(known, name)
    model = msgspec.to_builtins(entry)
    steps = min(entry.defaults.steps, _MOST_STEPS)
    loads = {"quiet": 0, "one core busy": 1, f"all {cores} cores busy": cores}
    options = {"model": name, "steps": steps, "seed": 1, "precision": "float32"}
    ours: dict[str, list[float]] = {load: [] for load in loads}
    ratios: dict[str, list[float]] = {load: [] for load in loads}
    same_work: list[float] = []
    with (
        tempfile.TemporaryDirectory() as saved,
        host(Path(saved), "--engine", "torch", "--catalogue", str(entries), models=(name,)) as sidecar,
        Direct(model, folder, steps) as direct,
    ):
        direct.draw(_PROMPT)  # it has loaded everything before the other side begins
        for load, count in loads.items():
            for turn in range(rounds + 1):
                if turn == 0 and count:
                    continue  # the first turn of all is a warm-up
                prompt = f"{_PROMPT}, number {turn} {load}"  # so neither side finds its embeddings in a cache
                with other_programs(count):
                    plain = direct.draw(prompt) if turn % 2 else 0.0
                    took = seconds_of(sidecar, prompt, options)
                    bare = 0.0 if count else seconds_of(sidecar, f"{prompt}, bare", {**options, **_SAME_WORK})
                    plain = plain or direct.draw(prompt)
                if turn and bare:
                    same_work.append(bare / plain)
                if turn:
                    ours[load].append(took)
                    ratios[load].append(took / plain)
    quiet = statistics.median(ours["quiet"])
    what = f"{rounds} x {steps} steps, no previews, picture in the answer"
    rows = [Row(f"quiet, the same work, sidecar / diffusers: {name}", statistics.median(same_work), "x", None, what)]
    for load, count in loads.items():
        what = f"{rounds} x {steps} steps, {statistics.median(ours[load]):.2f} s"
        goal = 1.0 if count else None  # a quiet machine has its own row, with more pairs
        rows.append(Row(f"{load}, sidecar / diffusers: {name}", statistics.median(ratios[load]), "x", goal, what))
        if count:
            most = _MOST_SLOWED if count == 1 and cores == 2 else None
            slowed = statistics.median(ours[load]) / quiet
            rows.append(Row(f"{load} / quiet, sidecar: {name}", slowed, "x", most))
    return rows
