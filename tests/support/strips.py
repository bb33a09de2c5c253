"""What an autoencoder of FLUX.1's published size holds while it decodes or encodes in strips, on the processor.

The weights are random, and each case runs in its own process. ``make fullsize-strips`` prints the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any, Literal, NamedTuple

from locara_sidecar.machine import memory
from locara_sidecar.machine import plan as plans
from locara_sidecar.models import catalogue
from support.synthetic_models import VAE

MODEL = "flux.1-dev"


class Case(NamedTuple):
    way: Literal["decode", "encode"]
    side: int
    dtype: str

    @classmethod
    def read(cls, text: str) -> Case:
        """:raises ValueError: if the text is not a case."""
        way, side, dtype = text.split(":")
        if way not in ("decode", "encode") or dtype not in ("float32", "bfloat16") or int(side) % 8:
            raise ValueError(text)
        return cls("decode" if way == "decode" else "encode", int(side), dtype)


def planned(case: Case, *, tiled: bool = True) -> int:
    """Return the memory plan's bytes for the case, without weights; ``tiled``: in strips."""
    entry = catalogue.load().get(MODEL)
    assert entry is not None
    decoder = next(part for part in entry.components if part.role == "decoder")
    value = 2 if case.dtype == "bfloat16" else 4
    return plans.coding_bytes(decoder, case.way, (case.side, case.side), value, tiled=tiled)


def measured(case: Case, engine: str) -> dict[str, Any]:
    """Run the case in its own process; return the bytes ``taken``, those of ``weights``, and the ``seconds``."""
    command = [sys.executable, "-m", "support.strips", engine, ":".join(map(str, case))]
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


if __name__ == "__main__":
    print(json.dumps({"torch": with_torch, "mlx": with_mlx}[sys.argv[1]](Case.read(sys.argv[2]))))
