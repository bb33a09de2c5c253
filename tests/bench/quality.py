"""What 8 and 4 bits cost in quality on the torch engine: the same jobs in float32 with and without.

    python tests/bench/quality.py [--pictures N]

For the shipped model and the tiny models of the fixtures: the cosine between the finished latents (worst of all
pictures), the PSNR of the pictures (of the mean squared error over all), and how much smaller the weights are. The tiny
models are random: they show that an architecture works, and no more. Then the time that one of FLUX's layers takes in
bfloat16, alternating with the unquantized layer. ``tests/bench/quantization.py`` has the MLX engine's figures,
layer by layer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import torch

from locara_sidecar.engine.runtime import ImageEvent, StepEvent
from locara_sidecar.engine.torch_engine import runtime as torch_runtime
from locara_sidecar.engine.torch_engine.tensors.bitsandbytes_layers import Linear4, Linear8
from locara_sidecar.ipc.frames import EncodeSpec, JobSpec, ModelSpec, PreviewSpec, Sides
from locara_sidecar.machine import plan as plans
from locara_sidecar.models import catalogue
from support.measuring import Row, show

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.staged import StagedRuntime

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "models"
MODELS = ("pocket", "tiny-sd3", "tiny-flux", "tiny-sdxl")
PROMPTS = (
    "a large red circle in the center of a blue background",
    "a small yellow star at the top left on a purple background",
    "a large green square in the center of a white background",
    "a small blue triangle at the bottom right on a yellow background",
)


class Drawn(NamedTuple):
    latents: list[Any]
    pictures: list[Any]


class Control:
    def checkpoint(self) -> None:
        """Nothing stops these jobs."""


def job_for(entry: catalogue.Entry, folder: Path) -> JobSpec:
    """A job with the model's defaults in float32."""
    defaults = entry.defaults
    sides = Sides(minimum=16, maximum=1024, multiple_of=8, max_pixels=1 << 20)
    return JobSpec(
        job="job-1",
        model=ModelSpec(
            id=entry.id,
            version=entry.version,
            digest="",
            family=entry.family,
            path=str(folder),
            max_sequence_length=defaults.max_sequence_length,
            quantization="none",
            precision="float32",
            sides=sides,
        ),
        prompt="",
        negative_prompt="",
        width=defaults.width,
        height=defaults.height,
        steps=defaults.steps,
        guidance=defaults.guidance,
        seed=0,
        count=1,
        scheduler=defaults.scheduler,
        speed="exact",
        tiling="off",
        preview=PreviewSpec(mode="off", every_steps=1, max_side=64, max_bytes=4096, mime_type="image/webp"),
        output=EncodeSpec(mime_type="image/png", quality=90, metadata=None),
    )


def found(known: catalogue.Catalogue, name: str) -> tuple[catalogue.Entry, Path]:
    """Return an available model and its folder."""
    entry, folder = known.get(name), known.folder(name)
    assert entry is not None
    assert folder is not None
    return entry, folder


def draw(runtime: StagedRuntime, job: JobSpec, quantization: str, count: int) -> Drawn:
    drawn = Drawn([], [])
    last: list[Any] = []

    def take(event: Any) -> None:
        if isinstance(event, StepEvent):
            last[:] = [event.x0]
        elif isinstance(event, ImageEvent):
            drawn.latents.append(last[0].double().flatten())
            drawn.pictures.append(np.asarray(event.pixels, float))

    model = msgspec.structs.replace(job.model, quantization=quantization)
    for seed in range(count):
        prompt = PROMPTS[seed % len(PROMPTS)]
        runtime.generate(msgspec.structs.replace(job, model=model, prompt=prompt, seed=seed), take, Control())
    return drawn


def psnr(wanted: Drawn, got: Drawn) -> float:
    error = np.mean([((a - b) ** 2).mean() for a, b in zip(wanted.pictures, got.pictures, strict=True)])
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def cosine(wanted: Drawn, got: Drawn) -> float:
    pairs = zip(wanted.latents, got.latents, strict=True)
    return min(float((a @ b) / (a.norm() * b.norm())) for a, b in pairs)


def seconds(layer: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    layer(x)
    return time.perf_counter() - start


def layer_times(rounds: int = 9) -> list[Row]:
    """One layer of FLUX's feed-forward: with one row, as in modulations, and with the rows of pictures of 256 … 1024
    pixels.
    """
    plain = torch.nn.Linear(3072, 12288, dtype=torch.bfloat16).requires_grad_(requires_grad=False)
    layers = {cls.__name__: cls(plain, torch.bfloat16) for cls in (Linear8, Linear4)}
    for layer in layers.values():
        layer.store(plain.weight)
    found: list[Row] = []
    for count in (1, 512, 2048, 4096):
        x = torch.randn(count, 3072, dtype=torch.bfloat16)
        turns = [[seconds(one, x) for one in (plain, *layers.values())] for _ in range(rounds + 1)][1:]
        for place, name in enumerate(layers, 1):
            ratio = statistics.median(turn[place] / turn[0] for turn in turns)
            found.append(Row(f"{name} / unquantized, 3072 x 12288, {count} rows", ratio, "x", None))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16)
    options = parser.parse_args()
    known = catalogue.load(FIXTURES)
    rows: list[Row] = []
    for name in MODELS:
        entry, folder = found(known, name)
        with tempfile.TemporaryDirectory() as scratch:
            runtime = torch_runtime.create(scratch)
            exact = draw(runtime, job_for(entry, folder), "none", options.pictures)
            for quantization in ("8bit", "4bit"):
                got = draw(runtime, job_for(entry, folder), quantization, options.pictures)
                assert runtime.opened is not None
                parts = runtime.opened.family.parts
                kept = [
                    sum(plans.weight_bytes(part, how, "float32") for part in parts) for how in (quantization, "none")
                ]
                smaller = f"weights {kept[0] / kept[1]:.0%} of float32"
                rows.append(Row(f"{name} {quantization}: cosine of the latents", cosine(exact, got), "", None, smaller))
                rows.append(Row(f"{name} {quantization}: PSNR", psnr(exact, got), "dB", None))
    with torch.inference_mode():
        rows += layer_times()
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
