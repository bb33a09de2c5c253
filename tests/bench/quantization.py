"""What quantizing costs in accuracy, for each kind of layer, on the shipped model with the MLX engine.

For each kind alone, and for all that the engine quantizes together: how far the finished latents are from those of
float32 (root mean square, as a part of theirs), how far the pictures (mean absolute difference of 8-bit pixels), and
how many pictures obey their prompts entirely. ``quantize.py`` chose what it quantizes by this table.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

from locara_sidecar.engine.drawing.family import Denoising
from locara_sidecar.engine.drawing.noise import NoiseStream
from locara_sidecar.engine.folder.model_folder import Progress
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit
from locara_sidecar.engine.mlx_engine.families.family import OpenContext
from locara_sidecar.engine.mlx_engine.families.sd3 import Sd3
from locara_sidecar.engine.mlx_engine.pace import Checkpoints
from locara_sidecar.engine.mlx_engine.tensors import weights
from locara_sidecar.engine.mlx_engine.tensors.quantize import AffineQuantizer, is_repeated
from locara_sidecar.ipc.frames import EncodeSpec, JobSpec, ModelSpec, PreviewSpec, Sides
from pocket_model.evaluate import mark_shape, shape_captions
from pocket_model.shape_judge import Score

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parents[2] / "sidecar" / "locara_sidecar" / "models" / "pocket"
SIDES = Sides(minimum=64, maximum=64, multiple_of=8, max_pixels=4096)
AROUND = {
    "time and pooled text": r"^(time|pooled)\.",
    "text tokens": r"^text$",
    "last modulation": r"^modulation_out$",
    "last projection": r"^proj_out$",
}
INSIDE = {
    "modulation": r"\.modulation(_text)?$",
    "queries, keys, values": r"\.to_[qkv]$",
    "attention output": r"\.out(2|_text)?$",
    "feed-forward": r"\.ff(_text)?\.",
}


class Drawn(NamedTuple):
    latents: np.ndarray
    pictures: np.ndarray


class Bench:
    """The shipped model, and prompts with their embeddings.

    :param count: pictures.
    """

    def __init__(self, count: int, steps: int) -> None:
        device.choose_device()
        self._family = Sd3.open(OpenContext(FOLDER, mx.float32, SIDES, Checkpoints()))
        names = {*self._family.encoders, "transformer", "vae"}
        self._family.load(names, self._progress())
        self.captions = shape_captions(count, True)
        self._texts = [self._family.encode(text, 1) for text in ("", *(caption.text for caption in self.captions))]
        self._steps = steps

    def with_layers(self, bits: int, chosen: Callable[[str], bool]) -> None:
        """Reload the transformer with these linear layers quantized."""
        component = self._family._components["transformer"]  # the benchmark uses internals
        quantizer = AffineQuantizer(bits, chosen)
        self._family._loaded["transformer"] = weights.build(Mmdit, component, mx.float32, self._progress(), quantizer)

    def draw(self) -> Drawn:
        latents, pictures = [], []
        for i in range(len(self.captions)):
            spec = _spec(self._steps)
            prompt, negative = self._texts[i + 1], self._texts[0]
            task = Denoising(spec, prompt, negative, None, NoiseStream(i), lambda *_: None)
            latent = self._family.denoise(task)
            latents.append(np.array(latent)[0])
            pictures.append(np.asarray(self._family.to_image(self._family.decode(latent, tiled=False))))
        return Drawn(np.stack(latents), np.stack(pictures))

    def _progress(self) -> Progress:
        return Progress(1, lambda _: None, lambda: None)


def _spec(steps: int) -> JobSpec:
    model = ModelSpec(
        id="pocket", version="1", digest="", family="sd3", path=str(FOLDER), max_sequence_length=1,
        quantization="none", precision="float32", sides=SIDES,
    )  # fmt: skip
    return JobSpec(
        job="", model=model, prompt="", negative_prompt="", width=128, height=128, steps=steps, guidance=3.0, seed=0,
        count=1, scheduler="", speed="exact", tiling="off",
        preview=PreviewSpec(mode="off", every_steps=1, max_side=64, max_bytes=1, mime_type="image/webp"),
        output=EncodeSpec(mime_type="image/png", quality=90, metadata=None),
    )  # fmt: skip


def _right(bench: Bench, pictures: np.ndarray) -> int:
    score = Score.zero()
    return sum(mark_shape(score, caption, picture) for caption, picture in zip(bench.captions, pictures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="pictures for each row")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    bench = Bench(options.count, options.steps)
    exact = bench.draw()
    print(f"{options.count} pictures, {options.steps} steps; {_right(bench, exact.pictures)} right in float32")
    print(f"{'layers in':34} {'bits':>4} {'latent':>8} {'pixels':>8} {'right':>6}")
    for bits in (8, 4):
        rows: dict[str, Callable[[str], bool]] = {
            name: lambda path, pattern=pattern: re.search(pattern, path) is not None
            for name, pattern in (INSIDE | AROUND).items()
        }
        rows["all inside the blocks (what is used)"] = partial(is_repeated, Mmdit)
        rows["all"] = lambda path: True
        for name, chosen in rows.items():
            bench.with_layers(bits, chosen)
            _show(bench, name, bits, exact, bench.draw())


def _show(bench: Bench, name: str, bits: int, exact: Drawn, got: Drawn) -> None:
    apart: Any = np.sqrt(np.mean((got.latents - exact.latents) ** 2) / np.mean(exact.latents**2))
    pixels: Any = np.abs(got.pictures.astype(float) - exact.pictures).mean()
    print(f"{name:34} {bits:4} {apart:8.4f} {pixels:8.3f} {_right(bench, got.pictures):6}", flush=True)


if __name__ == "__main__":
    main()
