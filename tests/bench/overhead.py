"""What the sidecar costs: the same picture through the daemon, and with diffusers' pipeline in one process.

The direct side (``bench.direct``) runs in its own child process, so that both sides are warm and take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.direct import Direct
from support.measuring import Row, host, percentile

STEPS = 8
_PROMPT = "a lighthouse on a rock, oil on canvas"


def measure(model: dict[str, Any], catalogue: Path, rounds: int) -> list[Row]:
    """Measure the ratio of wall times, the time to the first preview, and ``ping`` while pictures are drawn.

    :param model: the synthetic model's catalogue entry.
    """
    pings: list[float] = []
    ratios: list[float] = []
    first: list[float] = []
    step_ms: list[float] = []
    reported = 0
    side = model["defaults"]["width"]
    # the same arithmetic on both sides: by default the engine uses bfloat16 if the processor has it
    options = {
        "model": model["id"],
        "steps": STEPS,
        "seed": 1,
        "width": side,
        "height": side,
        "precision": "float32",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        host(Path(folder), "--engine", "torch", "--catalogue", str(catalogue), models=(model["id"],)) as sidecar,
        Direct(model, catalogue / model["source"]["path"], STEPS) as direct,
    ):
        for turn in range(rounds + 1):
            # a new prompt each turn: neither side may find its embeddings in a cache
            prompt = f"{_PROMPT}, number {turn}"
            plain = direct.draw(prompt)
            began = time.perf_counter()
            call = sidecar.start("image.generate", {"prompt": prompt, "options": options}, stream=True)
            seen = None
            steps = 0
            for message in call.messages():
                if message["phase"] == "denoising" and message["step"]:
                    steps += 1
                    if seen is None and "preview" in message:
                        seen = time.perf_counter() - began
            result = call.result()
            took = time.perf_counter() - began
            if turn == 0:
                continue  # loading
            times = result["timings"]
            ratios.append(took / plain)
            reported += steps
            step = times["denoiseMs"] / STEPS
            step_ms.append(step)
            first.append((seen or float("inf")) * 1000 / (times["encodeMs"] + 1.1 * step))
        call = sidecar.start("image.generate", {"prompt": _PROMPT, "options": {**options, "steps": 200}}, stream=True)
        while len(pings) < 400:
            began = time.perf_counter()
            sidecar.call("ping")
            pings.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
        call.cancel()
    return [
        Row("synthetic SD3, time of a step", statistics.median(step_ms), "ms", None, f"{side} x {side}, CPU float32"),
        Row(
            "sidecar with previews / diffusers in one process",
            statistics.median(ratios),
            "x",
            1.03,
            f"{rounds} pairs of {STEPS} steps",
        ),
        Row("steps not reported", float(rounds * STEPS - reported), "", 0.0),
        Row("first preview, warm / (encode + 1.1 step)", statistics.median(first), "x", 1.0),
        Row("ping p50 while drawing", percentile(pings, 0.5), "ms", None),
        Row("ping p99 while drawing", percentile(pings, 0.99), "ms", 5.0, f"{len(pings)} pings"),
        Row("ping max while drawing", max(pings), "ms", 50.0),
    ]
