"""What the sidecar costs: the same picture through the daemon and by the diffusers pipeline in one process.

The direct side runs in a child of its own (``python -m bench.overhead MODEL``) that reads a line for each picture,
so that both sides are warm and take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import ROOT, Row, host, percentile

STEPS = 8
_PROMPT = "a lighthouse on a rock, oil on canvas"


def measure(model: dict[str, Any], catalogue: Path, rounds: int) -> list[Row]:
    """Ratio of wall times, time to the first preview, and ``ping`` while pictures are made.

    :param model: the synthetic model's catalogue entry.
    """
    pings: list[float] = []
    ratios: list[float] = []
    first: list[float] = []
    step_ms: list[float] = []
    reported = 0
    side = model["defaults"]["width"]
    # the same arithmetic on both sides: left alone, the engine takes bfloat16 where the processor has it
    options = {
        "model": model["id"],
        "steps": STEPS,
        "seed": 1,
        "width": side,
        "height": side,
        "precision": "float32",
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "packaging")}
    direct_command = [
        sys.executable,
        "-m",
        "bench.overhead",
        json.dumps(model),
        str(catalogue / model["source"]["path"]),
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        host(Path(folder), "--engine", "torch", "--catalogue", str(catalogue), models=(model["id"],)) as sidecar,
        subprocess.Popen(
            direct_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        ) as direct,
    ):
        assert direct.stdin is not None
        assert direct.stdout is not None
        for turn in range(rounds + 1):
            # a new prompt each turn: neither side may find its embeddings in a cache
            prompt = f"{_PROMPT}, number {turn}"
            direct.stdin.write(prompt + "\n")
            direct.stdin.flush()
            plain = float(direct.stdout.readline())
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
        direct.stdin.close()
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


def _direct(model: dict[str, Any], folder: str) -> None:
    """Read prompts, draw each with the plain pipeline, print the seconds that it took."""
    import torch
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    defaults = model["defaults"]
    for prompt in sys.stdin:
        began = time.perf_counter()
        pipeline(
            prompt.strip(),
            width=defaults["width"],
            height=defaults["height"],
            num_inference_steps=STEPS,
            guidance_scale=defaults["guidance"],
            max_sequence_length=defaults["maxSequenceLength"],
            generator=torch.Generator().manual_seed(1),
        ).images[0].save(os.devnull, "png")
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    _direct(json.loads(sys.argv[1]), sys.argv[2])
