"""The other side of ``fullsize.accelerator``: diffusers' pipeline in a separate process, called as its guide says.

    python -m fullsize.plain FOLDER --size N --steps N [--compile]

Loads, prints a line, waits for one on stdin, and then prints one line of JSON with seconds: ``encode``, ``picture``,
``step`` (the whole loop over its steps, the middle one of three runs), and with ``--compile`` the same with the
denoiser's repeated blocks compiled, as diffusers' ``compile_repeated_blocks`` does it, and what the first call took.
``peak``: bytes of main memory (the operating system's figure) and of the device (torch's allocator) at their height
together, as the engine counts its own.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, cast

from locara_sidecar.machine import memory

RUNS = 3
PROMPT = "a red circle on the blue square"


class Plain:
    """A loaded pipeline; what it draws is nonsense of the true size."""

    def __init__(self, folder: Path, cls: Any, size: int, steps: int) -> None:
        import diffusers
        import torch

        self._torch: Any = torch
        name = cls.__name__
        self.pipe: Any = cls.from_pretrained(str(folder), dtype=torch.bfloat16, device_map="cuda")
        self.pipe.set_progress_bar_config(disable=True)
        self._arguments: dict[str, Any] = {"num_inference_steps": steps, "width": size, "height": size}
        if name == "StableDiffusionXLPipeline":  # as SDXL Lightning's model card has it
            euler = cast("Any", diffusers).EulerDiscreteScheduler
            self.pipe.scheduler = euler.from_config(self.pipe.scheduler.config, timestep_spacing="trailing")
            self._arguments["guidance_scale"] = 0.0
        elif name == "ZImagePipeline":
            self._arguments["guidance_scale"] = 0.0
        elif name == "Flux2KleinPipeline":
            self._arguments["guidance_scale"] = 1.0
        elif name == "FluxKontextPipeline":
            from PIL import Image

            self._arguments |= {"image": Image.new("RGB", (size, size), "red"), "max_area": size * size}
            self._arguments["_auto_resize"] = False
        self.steps = steps

    def wait(self) -> None:
        self._torch.cuda.synchronize()

    def encode(self) -> dict[str, Any]:
        """The embeddings, by the pipeline's parameter names."""
        given: dict[str, Any] = {"prompt": PROMPT, "prompt_2": None, "prompt_3": None, "negative_prompt": ""}
        takes = inspect.signature(self.pipe.encode_prompt).parameters
        guided = "negative_prompt" in takes and self._arguments.get("guidance_scale") != 0.0
        if "do_classifier_free_guidance" in takes:
            given["do_classifier_free_guidance"] = guided
        with self._torch.no_grad():
            found = self.pipe.encode_prompt(**{name: value for name, value in given.items() if name in takes})
        if type(self.pipe).__name__ in ("ZImagePipeline", "Flux2KleinPipeline"):  # tokens alone, and what is not used
            return {"prompt_embeds": found[0]}
        if "negative_prompt" not in takes:  # FLUX: tokens, pooled, positions
            return {"prompt_embeds": found[0], "pooled_prompt_embeds": found[1]}
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        return {name: value for name, value in zip(names, found, strict=True) if value is not None}

    def draw(self, embeddings: dict[str, Any], output: str) -> float:
        """Seconds of one picture (``pil``) or of its loop alone (``latent``)."""
        began = time.perf_counter()
        with self._torch.no_grad():
            self.pipe(**self._arguments, **embeddings, output_type=output)
        self.wait()
        return time.perf_counter() - began

    def step(self, embeddings: dict[str, Any]) -> float:
        return statistics.median(self.draw(embeddings, "latent") for _ in range(RUNS)) / self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    import diffusers
    import torch

    from locara_sidecar.engine.torch_engine.denoising.compiled import blocks_of

    cls: Any = getattr(diffusers, json.loads((options.folder / "model_index.json").read_text())["_class_name"])
    plain = Plain(options.folder, cls, options.size, options.steps)
    plain.wait()
    print("loaded", flush=True)
    sys.stdin.readline()
    figures: dict[str, float] = {}
    plain.encode()
    plain.wait()
    began = time.perf_counter()
    embeddings = plain.encode()
    plain.wait()
    figures["encode"] = time.perf_counter() - began
    plain.draw(embeddings, "pil")
    figures["picture"] = plain.draw(embeddings, "pil")
    figures["step"] = plain.step(embeddings)
    figures["peak"] = memory.peak() + torch.cuda.max_memory_reserved()
    if options.compile:
        denoiser: Any = getattr(plain.pipe, "transformer", None) or plain.pipe.unet
        for block in blocks_of(denoiser):  # compile_repeated_blocks knows none of SD3's
            block.compile(fullgraph=True)
        figures["compiling"] = plain.draw(embeddings, "latent")
        figures["compiledStep"] = plain.step(embeddings)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
