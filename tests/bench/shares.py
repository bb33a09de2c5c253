"""Where the time of a short job goes: ``make bench-shares``.

A step of *pocket* takes some 20 ms, so what surrounds the steps counts, and the time of a whole job is more than
diffusers' alone. Five sides draw the same pictures, alternately, each with one more of the things that a job
consists of; each side begins as often as any other:

- plain diffusers, whose picture is compressed and thrown away;
- the engine without the daemon, without previews;
- the engine without the daemon, with previews;
- the sidecar with previews, with the picture in its answer: processes, frames, pings answered, lines;
- the sidecar as it comes: the picture is on the disk, its name too, when the call is answered.

Times are relative to diffusers' in the same turn. The processor time of all processes of a side stands beside it: on a
machine with as many busy threads as cores, what others compute meanwhile delays the steps.

Before that, what surrounds the steps alone: jobs of the fake engine, which computes nothing. ``--around`` measures
only this, in a few seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import psutil

from bench.direct import Direct
from bench.quality import found, job_for
from locara_sidecar.models import catalogue
from support.measuring import ROOT, Row, host, seconds_of, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.client import Sidecar

_MODEL = "pocket"
_PLAIN = "diffusers"


class Side(NamedTuple):
    """``draw``: takes a prompt and returns seconds. ``processes``: the processes that do the work."""

    draw: Callable[[str], float]
    processes: list[psutil.Process]

    def cpu(self) -> float:
        """Return the seconds that all threads of its processes have computed."""
        times = [process.cpu_times() for process in self.processes]
        return sum(time.user + time.system for time in times)


class Engine:
    """The engine alone, in a child process: the loop of its worker, with nobody to send frames to."""

    def __init__(self, previews: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bench.shares", "--child", previews],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
            text=True,
        )

    def draw(self, prompt: str) -> float:
        """Return the seconds from the prompt to the compressed picture."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{prompt}\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())

    def close(self) -> None:
        self.child.kill()
        self.child.wait()


class _Control:
    cancelled = False

    def checkpoint(self) -> None:
        """Nothing stops these jobs."""


def _serve(previews: str) -> None:
    from locara_sidecar.engine.job import run_job
    from locara_sidecar.engine.torch_engine.runtime import create
    from locara_sidecar.machine.processes import priority

    priority.step_back()
    entry, folder = found(catalogue.load(), _MODEL)
    job = job_for(entry, folder)
    job = msgspec.structs.replace(
        job, preview=msgspec.structs.replace(job.preview, mode=previews, max_side=256, max_bytes=5632)
    )
    with tempfile.TemporaryDirectory() as scratch:
        runtime = create(scratch)
        for line in sys.stdin:
            began = time.perf_counter()
            events: list[Any] = []
            drawn = msgspec.structs.replace(job, prompt=line.strip(), seed=1)
            run_job(runtime, drawn, _Control(), events.append, lambda what, error: print(what, error, file=sys.stderr))
            print(time.perf_counter() - began, flush=True)


def _asked(sidecar: Sidecar, mode: str, previews: str = "auto") -> Callable[[str], float]:
    output, preview = {"mode": mode}, {"mode": previews}

    def draw(prompt: str) -> float:
        options = {"model": _MODEL, "seed": 1, "precision": "float32", "output": output, "preview": preview}
        return seconds_of(sidecar, prompt, options)

    return draw


def measure(turns: int) -> list[Row]:
    """Let every side draw in turn, and compare each with diffusers."""
    entry, folder = found(catalogue.load(), _MODEL)
    steps = entry.defaults.steps
    engines = {"engine alone": Engine("off"), "engine alone, previews": Engine("auto")}
    try:
        with (
            tempfile.TemporaryDirectory() as saved,
            host(Path(saved), "--engine", "torch") as sidecar,
            Direct(msgspec.to_builtins(entry), folder, steps) as direct,
        ):
            _asked(sidecar, "save")("a red circle")  # starts the engine
            ours = _processes(sidecar)
            sides = {
                _PLAIN: Side(direct.draw, [psutil.Process(direct.pid)]),
                **{name: Side(child.draw, [psutil.Process(child.child.pid)]) for name, child in engines.items()},
                "sidecar, inline": Side(_asked(sidecar, "inline"), ours),
                "sidecar": Side(_asked(sidecar, "save"), ours),
            }
            return _rows(sides, turns, steps)
    finally:
        for child in engines.values():
            child.close()


def _processes(sidecar: Sidecar) -> list[psutil.Process]:
    """This one, the daemon and its engine."""
    engine = psutil.Process(sidecar.call("ping")["engine"]["pid"])
    return [psutil.Process(), *engine.parents()[:1], engine]


_AROUND = {
    "sidecar": ("save", "auto"),
    "no previews": ("save", "off"),
    "inline": ("inline", "auto"),
    "inline, no previews": ("inline", "off"),
}


def around(turns: int, pause: int) -> list[Row]:
    """Measure what surrounds the steps: jobs of an engine that computes nothing.

    :param pause: milliseconds that the engine sleeps for a step.
    """
    os.environ |= dict.fromkeys(("LOCARA_FAKE_LOAD_MS", "LOCARA_FAKE_ENCODE_MS", "LOCARA_FAKE_DECODE_MS"), "0")
    os.environ["LOCARA_FAKE_STEP_MS"] = str(pause)
    times: dict[str, list[float]] = {name: [] for name in _AROUND}
    cpu = dict.fromkeys(_AROUND, 0.0)
    with tempfile.TemporaryDirectory() as saved, host(Path(saved), "--engine", "fake") as sidecar:
        sides = {name: _asked(sidecar, *how) for name, how in _AROUND.items()}
        sides["sidecar"]("a red circle")  # starts the engine
        ours = _processes(sidecar)
        names = list(sides)
        for _ in range(turns):
            names.append(names.pop(0))
            for name in names:
                side = Side(sides[name], ours)
                before = side.cpu()
                times[name].append(side.draw("a red circle"))
                cpu[name] += side.cpu() - before
    rows: list[Row] = []
    steps = found(catalogue.load(), _MODEL)[0].defaults.steps
    for name, taken in times.items():
        what = f"{turns} x {steps} steps of {pause} ms, least {1000 * min(taken):.1f} ms"
        rows.append(Row(f"fake engine: {name}", 1000 * statistics.median(taken), "ms", None, what))
        rows.append(Row(f"fake engine: {name}, processor time", 1000 * cpu[name] / turns, "ms", None))
    return rows


def _rows(sides: dict[str, Side], turns: int, steps: int) -> list[Row]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    cpu = dict.fromkeys(sides, 0.0)
    names = list(sides)
    for turn in range(-2, turns):
        names.append(names.pop(0))  # each begins in turn
        for name in names:
            before = sides[name].cpu()
            took = sides[name].draw(f"a large red circle in the center of a blue background, {turn} {name}")
            if turn >= 0:  # the first two load and warm up
                times[name].append(took)
                cpu[name] += sides[name].cpu() - before
        print(turn, {name: f"{1000 * taken[-1]:.0f}" for name, taken in times.items() if taken}, file=sys.stderr)
    plain = times[_PLAIN]
    rows: list[Row] = []
    for name, taken in times.items():
        ratio = statistics.median(own / other for own, other in zip(taken, plain, strict=True))
        what = (
            f"{turns} x {steps} steps, median {1000 * statistics.median(taken):.0f} ms, least {1000 * min(taken):.0f}"
        )
        rows.append(Row(f"{name} / {_PLAIN}: {_MODEL}", ratio, "x", None, what))
        rows.append(Row(f"{name}: processor time of a job", 1000 * cpu[name] / turns, "ms", None))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--around", action="store_true", help="only what surrounds the steps")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _serve(options.child)
        return 0
    rows = around(3 * options.turns, 0) + around(options.turns, 20)
    return show(rows if options.around else rows + measure(options.turns))


if __name__ == "__main__":
    sys.exit(main())
