"""What channels-last convolutions gain or cost the torch engine: full widths, random weights, any device.

    python tests/bench/layout.py [--device cpu|cuda|mps] [--size N] [--rounds N]

Times one call of SDXL's UNet (without guidance, as SDXL Lightning runs), one encode and one decode of its autoencoder
and a decode of a tiny one, each with the convolutions' kernels in torch's own layout and channels-last, alternately, in
bfloat16. The ratio is channels-last over the other: below 1 it pays. ``torch_engine/tensors/weights.py`` decides where
it is on. Memory is a call's peak without the weights; on a CPU it is read from Linux. Prints one row per part, then one
line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import diffusers
import psutil
import torch
from diffusers.utils import logging
from torch import nn

from locara_sidecar.machine import memory
from support.synthetic import UNET
from support.synthetic_models import SDXL_VAE

if TYPE_CHECKING:
    from collections.abc import Callable

TINY_VAE = {"latent_channels": 4, "block_out_channels": [64, 64, 64, 64]}
LAYOUTS = {"torch's own": torch.contiguous_format, "channels-last": torch.channels_last}


def random_part(kind: str, config: dict[str, Any], device: str) -> nn.Module:
    """A module of diffusers' in bfloat16 with small random weights, made where it runs."""
    with torch.device("meta"):
        part: nn.Module = getattr(diffusers, kind).from_config(config).to(torch.bfloat16)
    part = part.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(1)
    for name, value in part.named_parameters():
        if value.dim() > 1:
            value.data.normal_(0, value[0].numel() ** -0.5, generator=generator)
        else:
            value.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return part.eval().requires_grad_(requires_grad=False)


def set_layout(part: nn.Module, layout: torch.memory_format) -> None:
    """Give the kernels the layout that ``weights.py`` uses; activations follow it."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=layout)


def unet(device: str, side: int) -> tuple[nn.Module, Callable[[], object]]:
    part = random_part("UNet2DConditionModel", UNET, device)
    noise = torch.randn(1, 4, side // 8, side // 8, device=device, dtype=torch.bfloat16)
    text = torch.randn(1, 77, 2048, device=device, dtype=torch.bfloat16)
    added = {
        "text_embeds": torch.randn(1, 1280, device=device, dtype=torch.bfloat16),
        "time_ids": torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=torch.bfloat16),
    }
    call = cast("Any", part)
    return part, lambda: call(noise, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample


def encoding(device: str, side: int) -> tuple[nn.Module, Callable[[], object]]:
    part = random_part("AutoencoderKL", SDXL_VAE, device)
    picture = torch.rand(1, 3, side, side, device=device, dtype=torch.bfloat16)
    return part, lambda: cast("Any", part).encode(picture).latent_dist


def decoding(device: str, side: int) -> tuple[nn.Module, Callable[[], object]]:
    return _decoding(random_part("AutoencoderKL", SDXL_VAE, device), device, side)


def tiny_decoding(device: str, side: int) -> tuple[nn.Module, Callable[[], object]]:
    return _decoding(random_part("AutoencoderTiny", TINY_VAE, device), device, side)


def _decoding(part: nn.Module, device: str, side: int) -> tuple[nn.Module, Callable[[], object]]:
    latent = torch.randn(1, 4, side // 8, side // 8, device=device, dtype=torch.bfloat16)
    return part, lambda: cast("Any", part).decode(latent).sample


PARTS = {"a call of the UNet": unet, "encoding": encoding, "decoding": decoding, "decoding, tiny": tiny_decoding}


def seconds(work: Callable[[], object], device: str) -> float:
    """Time one call until the device has finished."""
    _finish(device)
    began = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - began


def taken_by(work: Callable[[], object], device: str) -> int | None:
    """Return the peak bytes of a call without the weights; None if they cannot be measured."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if device == "mps" or sys.platform != "linux":
        return None
    with memory.large_blocks_apart():
        gc.collect()
        memory.give_back()
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
        work()
    return memory.peak() - before


def _finish(device: str) -> None:
    if device != "cpu":
        getattr(torch, device).synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each layout, after one that warms up")
    options = parser.parse_args()
    logging.set_verbosity_error()
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    found: dict[str, dict[str, float | None]] = {}
    with torch.inference_mode():
        for title, make in PARTS.items():
            part, work = make(options.device, options.size)
            taken: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
            for _ in range(options.rounds + 1):
                for layout, form in LAYOUTS.items():
                    set_layout(part, form)
                    taken[layout].append(seconds(work, options.device))
            ratios = [last / own for own, last in zip(*(values[1:] for values in taken.values()), strict=True)]
            cells = [f"{title}, {options.size} x {options.size}, {name}"]
            found[title] = {"ratio": statistics.median(ratios)}
            for layout, form in LAYOUTS.items():
                set_layout(part, form)
                middle, held = statistics.median(taken[layout][1:]), taken_by(work, options.device)
                found[title] |= {f"{layout}, seconds": middle, f"{layout}, bytes": held}
                cells.append(f"{middle:.4f} s" + ("" if held is None else f", {held / 1e9:.2f} GB"))
            print(f"| {' | '.join(cells)} | {statistics.median(ratios):.3f} ({min(ratios):.3f}…{max(ratios):.3f}) |")
            del part, work
    print(json.dumps({"device": name, "size": options.size, "parts": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
