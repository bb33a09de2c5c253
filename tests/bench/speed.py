"""What step caching gains and costs on an engine: the same jobs at each speed, alternately, in float32.

    python tests/bench/speed.py [--engine torch|mlx] [--pictures N] [--steps N] [--target-ms N] [--patterns]

- pocket, which has real weights: how much faster denoising is, the PSNR against the exact pictures (of the mean
  squared error over all), and the share of pictures in which the judge finds all that the prompt said. Its prompts
  describe coloured shapes in full. It is small, so the work outside its blocks counts for much.
- a synthetic SD3 model with SD3.5 Medium's depth: how much faster; its weights are random, so quality means nothing.
- the tiny FLUX fixture, random too: that the mechanism works there; only its computed steps mean anything.

``--patterns`` does something else: it prints the PSNR to exact of *pocket*'s pictures with other patterns of computed
steps, from which those of the speeds were chosen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import numpy as np

from bench.quality import FIXTURES, PROMPTS, Control, found, job_for
from locara_sidecar.engine.drawing.speeds import SPEEDS, Pattern
from locara_sidecar.engine.runtime import ImageEvent, PhaseEvent, StepEvent, create
from locara_sidecar.models import catalogue
from pocket_model.evaluate import mark_shape, shape_captions
from pocket_model.shape_judge import Score
from support.measuring import ROOT, Row, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.engine.drawing.staged import StagedRuntime

_SPEEDS = ("exact", *SPEEDS)
_PATTERNS = [Pattern(*pair) for pair in ((6, 2), (6, 3), (6, 4), (4, 4), (4, 5), (3, 3), (3, 4), (4, 6))]


class Drawn(NamedTuple):
    """Pictures at one speed; ``seconds`` run from the start of denoising to its last step."""

    seconds: list[float]
    pictures: list[Any]
    computed: list[int]


class Timed:
    """Draws pictures and records how long denoising took and how many steps were computed.

    :param engine: ``torch`` or ``mlx``.
    """

    def __init__(self, engine: str, scratch: str) -> None:
        self._runtime = cast("StagedRuntime", create(engine, scratch, {}))
        self._hooked: Any = None
        self._computed = 0
        if engine == "mlx":
            self._count_answers()

    def draw(self, job: Any, drawn: Drawn) -> None:
        began = ended = 0.0

        def take(event: Any) -> None:
            nonlocal began, ended
            if isinstance(event, PhaseEvent) and event.phase == "denoising":
                self._begin()
                began = time.perf_counter()
            elif isinstance(event, StepEvent):
                ended = time.perf_counter()
            elif isinstance(event, ImageEvent):
                drawn.pictures.append(np.asarray(event.pixels))

        self._runtime.generate(job, take, Control())
        drawn.seconds.append(ended - began)
        drawn.computed.append(self._computed)

    def _begin(self) -> None:
        self._computed = 0
        opened: Any = self._runtime.opened
        denoiser = opened.family.module("transformer") if self._runtime.name == "torch" else None
        if denoiser is not None and self._hooked is not denoiser:
            denoiser.transformer_blocks[0].attn.to_q.register_forward_pre_hook(self._one)
            self._hooked = denoiser

    def _one(self, *_: Any) -> None:
        self._computed += 1

    def _count_answers(self) -> None:
        from locara_sidecar.engine.mlx_engine.step_cache import Answers

        kind: Any = Answers
        answer = kind.__call__

        def counted(answers: Answers, step: int, compute: Callable[[], Any]) -> Any:
            def computed() -> Any:
                self._one()
                return compute()

            return answer(answers, step, computed)

        kind.__call__ = counted


def at_each_speed(
    engine: str, entry: catalogue.Entry, folder: Path, prompts: list[str], steps: int
) -> dict[str, Drawn]:
    """Every prompt at every speed, one after the other; prompt k with seed k."""
    drawn = {speed: Drawn([], [], []) for speed in _SPEEDS}
    job = msgspec.structs.replace(job_for(entry, folder), steps=steps)
    with tempfile.TemporaryDirectory() as scratch:
        timed = Timed(engine, scratch)
        timed.draw(msgspec.structs.replace(job, prompt=prompts[0]), Drawn([], [], []))  # loads
        for seed, prompt in enumerate(prompts):
            for speed, made in drawn.items():
                timed.draw(msgspec.structs.replace(job, prompt=prompt, seed=seed, speed=speed), made)
    return drawn


def psnr(exact: Drawn, made: Drawn) -> float:
    """dB, of the mean squared error over all pictures."""
    pairs = zip(exact.pictures, made.pictures, strict=True)
    error = np.mean([((a.astype(float) - b) ** 2).mean() for a, b in pairs])
    return float(10 * np.log10(255**2 / error))


def pattern_rows(engine: str, entry: catalogue.Entry, folder: Path, prompts: list[str]) -> list[Row]:
    """Every pattern in the place of ``fast``, at 28, 20 and 12 steps."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        timed = Timed(engine, scratch)
        timed.draw(msgspec.structs.replace(job_for(entry, folder), prompt=prompts[0]), Drawn([], [], []))  # loads
        for steps in (28, 20, 12):
            drawn = []
            for pattern in (None, *_PATTERNS):
                SPEEDS["fast"] = pattern or SPEEDS["fast"]
                made = Drawn([], [], [])
                job = msgspec.structs.replace(job_for(entry, folder), steps=steps, speed="fast" if pattern else "exact")
                for seed, prompt in enumerate(prompts):
                    timed.draw(msgspec.structs.replace(job, prompt=prompt, seed=seed), made)
                drawn.append(made)
            for pattern, made in zip(_PATTERNS, drawn[1:], strict=True):
                name = f"{steps} steps, warmup {pattern.warmup}, interval {pattern.interval}: PSNR to exact"
                rows.append(Row(name, psnr(drawn[0], made), "dB", None, f"{made.computed[0]} computed"))
    return rows


def rows_of(name: str, drawn: dict[str, Drawn], steps: int, *, quality: bool) -> list[Row]:
    exact, rows = drawn["exact"], []
    for speed in SPEEDS:
        made = drawn[speed]
        (computed,) = set(made.computed)
        ratio = float(np.median(np.array(exact.seconds) / np.array(made.seconds)))
        rows.append(Row(f"{name} {speed}: steps computed of {steps}", computed, "", None))
        rows.append(Row(f"{name} {speed}: denoising, times faster", ratio, "x", None, f"{len(made.seconds)} pairs"))
        if quality:
            rows.append(Row(f"{name} {speed}: PSNR to exact", psnr(exact, made), "dB", None))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--pictures", type=int, default=60, help="of pocket")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--target-ms", default="100", help="the least time of a step of the synthetic model")
    parser.add_argument("--patterns", action="store_true", help="try other patterns of computed steps instead")
    options = parser.parse_args()
    engine, known = options.engine, catalogue.load(FIXTURES)
    captions = shape_captions(options.pictures, True)
    if options.patterns:
        return show(pattern_rows(engine, *found(known, "pocket"), [caption.text for caption in captions]))
    drawn = at_each_speed(engine, *found(known, "pocket"), [caption.text for caption in captions], options.steps)
    rows = rows_of("pocket", drawn, options.steps, quality=True)
    for speed, made in drawn.items():
        score = Score.zero()
        right = [mark_shape(score, *pair) for pair in zip(captions, made.pictures, strict=True)]
        rows.append(Row(f"pocket {speed}: pictures entirely right", 100 * float(np.mean(right)), "%", None, str(score)))
    drawn = at_each_speed(engine, *found(known, "tiny-flux-dev"), list(PROMPTS), options.steps)
    rows += rows_of("tiny FLUX", drawn, options.steps, quality=False)
    with tempfile.TemporaryDirectory() as folder:
        script = str(ROOT / "fixtures" / "make_models.py")
        command = [sys.executable, script, "--synthetic-sd3", folder, "--target-ms", options.target_ms]
        subprocess.run(command, check=True)
        synthetic = found(catalogue.load(Path(folder)), "synthetic-sd3")
        drawn = at_each_speed(engine, *synthetic, list(PROMPTS), options.steps)
        step = float(np.median(drawn["exact"].seconds)) / options.steps * 1000
        rows.append(Row("synthetic SD3: a computed step", step, "ms", None, "256 x 256 with guidance"))
        rows += rows_of("synthetic SD3", drawn, options.steps, quality=False)
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
