"""What an autoencoder of the published size holds while it decodes and encodes in strips, on the processor.

    python -m fullsize.strips [CASE …] [--engine torch|mlx]

A CASE is ``WAY:SIDE:TYPE``, such as ``decode:2048:bfloat16``. Each runs in a process of its own, on random weights: the
process's peak as Linux counts it (``VmHWM``) above what it held before, so without weights and libraries. Beside it is
the memory plan's figure for the same. A decode at 1024 x 1024 takes minutes on two cores, at 2048 x 2048 some twenty.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any, Literal, NamedTuple

from locara_sidecar.machine import memory
from locara_sidecar.machine import plan as plans
from locara_sidecar.models import catalogue
from support.measuring import Row, show
from support.synthetic_models import VAE

GB = 1_000_000_000
MODEL = "flux.1-dev"
GOALS = {1024: 1.8, 2048: 6.0}
"""The most gigabytes with weights, by the picture's side."""


class Case(NamedTuple):
    way: Literal["decode", "encode"]
    side: int
    dtype: str

    @classmethod
    def read(cls, text: str) -> Case:
        """:raises ValueError: if it is no case."""
        way, side, dtype = text.split(":")
        if way not in ("decode", "encode") or dtype not in ("float32", "bfloat16") or int(side) % 8:
            raise ValueError(text)
        return cls("decode" if way == "decode" else "encode", int(side), dtype)


CASES = [Case(way, side, "bfloat16") for side in (1024, 2048) for way in ("decode", "encode")]


def planned(case: Case, *, tiled: bool = True) -> int:
    """Return the bytes that the memory plan has for the case, without weights; ``tiled``: in strips."""
    entry = catalogue.load().get(MODEL)
    assert entry is not None
    decoder = next(part for part in entry.components if part.role == "decoder")
    value = 2 if case.dtype == "bfloat16" else 4
    return plans.coding_bytes(decoder, case.way, (case.side, case.side), value, tiled=tiled)


def measured(case: Case, engine: str) -> dict[str, Any]:
    """Run the case in a process of its own: bytes ``taken`` and of ``weights``, and ``seconds``."""
    command = [sys.executable, "-m", "fullsize.strips", "--here", "--engine", engine, ":".join(map(str, case))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def with_torch(case: Case) -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKL
    from torch import nn

    from locara_sidecar.engine.torch_engine.strips import in_strips

    dtype = getattr(torch, case.dtype)
    torch.manual_seed(1)
    with torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(VAE)
    for module in vae.modules():  # as the loader makes them: in half precision, convolutions' are channels-last
        for name, value in list(module.named_parameters(recurse=False)):
            last = value.dim() == 4 and dtype != torch.float32
            layout = torch.channels_last if last else torch.contiguous_format
            made = torch.empty(value.shape, dtype=dtype, memory_format=layout)
            made = made.normal_(std=0.02) if value.dim() > 1 else made.fill_(float(name == "weight"))
            setattr(module, name, nn.Parameter(made, requires_grad=False))
    vae.eval()
    side = case.side
    given = torch.randn((1, 3, side, side) if case.way == "encode" else (1, 16, side // 8, side // 8), dtype=dtype)
    before, began = memory.resident(), time.monotonic()
    with torch.no_grad(), in_strips(vae):
        made = vae.encode(given).latent_dist.mean if case.way == "encode" else vae.decode(given).sample
    assert torch.isfinite(made).all()
    return _told(before, began, sum(value.nbytes for value in vae.parameters()))


def with_mlx(case: Case) -> dict[str, Any]:
    import mlx.core as mx
    import msgspec
    from mlx.utils import tree_flatten, tree_map

    from locara_sidecar.engine.mlx_engine import device
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae, VaeConfig

    device.choose_device()
    dtype = device.dtype_of(case.dtype)
    vae = Vae(msgspec.convert(VAE, VaeConfig))
    vae.update(tree_map(lambda value: value.astype(dtype), vae.parameters()))
    mx.eval(vae.parameters())
    mx.set_cache_limit(0)
    side = case.side
    given = mx.random.normal((1, side, side, 3) if case.way == "encode" else (1, side // 8, side // 8, 16), dtype)
    mx.eval(given)
    before, began = memory.resident(), time.monotonic()
    made = (
        vae.encode(given, mx.eval, tiled=True).mean if case.way == "encode" else vae.decode(given, mx.eval, tiled=True)
    )
    assert mx.isfinite(made).all().item()
    weights: Any = tree_flatten(vae.parameters())
    return _told(before, began, sum(value.nbytes for _, value in weights))


def _told(before: int, began: float, weights: int) -> dict[str, Any]:
    return {"taken": memory.peak() - before, "weights": weights, "seconds": time.monotonic() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", type=Case.read, help="WAY:SIDE:TYPE; all four in bfloat16")
    parser.add_argument("--engine", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps({"torch": with_torch, "mlx": with_mlx}[options.engine](options.cases[0])))
        return 0
    rows: list[Row] = []
    for case in options.cases or CASES:
        found = measured(case, options.engine)
        name, weights = f"{case.way} {case.side} {case.dtype}", found["weights"] / GB
        rows.append(Row(f"{name}, held at the height", found["taken"] / GB, "GB", planned(case) / GB, "goal: the plan"))
        with_weights = found["taken"] / GB + weights
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        rows.append(Row(f"{name}, with weights", with_weights, "GB", GOALS.get(case.side), f"{found['seconds']:.0f} s"))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
