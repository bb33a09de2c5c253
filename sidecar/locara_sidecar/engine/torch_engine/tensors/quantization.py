"""Weight-only quantization of linear layers with bitsandbytes: 8 bits per row, or 4 bits in groups of 64.

A layer keeps its weight in the library's format and computes in the job's precision; a call's temporary memory is freed
after it. Only the linear layers *inside* blocks (members of a ``ModuleList``) are quantized: they hold nearly all of
the weights. Everything before and after the blocks (embeddings, input and output projections), norms, biases and
convolutions stay as they are.

- 8 bits: int8 rows with one scale each, as in the library's LLM.int8. Unlike there, inputs are not quantized: that
  would cost accuracy, and on a CPU it is several times slower.
- 4 bits: NF4 in groups of 64 with a float32 scale (4.5 bits per weight), computed by the library's ``matmul_4bit``,
  which has kernels for CUDA, MPS and the CPU. A layer whose number of inputs is not a multiple of 64 gets 8 bits: the
  library's CPU kernel treats a group that spans two rows as two.

Why bitsandbytes and not torchao, tried with torch 2.13, one 3072 x 12288 layer in bfloat16 on two cores with AMX:
torchao 0.18 has no 4 bits for the CPU or MPS; its 8 bits are as fast as these for 512 rows and many times slower for
one; importing it takes 1.5 s and prints errors about its compiled parts. bitsandbytes 0.50 has both for every device
that torch has here. Its import takes 0.7 s, so it is postponed until a job asks for quantization (``environment.py``
keeps diffusers from importing it). The layers are in ``bitsandbytes_layers.py``.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from locara_sidecar.engine.torch_engine import environment
from locara_sidecar.ipc.errors import EngineError


def candidates(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of ``module`` to quantize, by their names in it."""
    lists = [name for name, part in _named(module) if isinstance(part, nn.ModuleList)]
    return {
        name: part
        for name, part in _named(module)
        if type(part) is nn.Linear and any(name.startswith(f"{inside}.") for inside in lists)
    }


def prepare(module: nn.Module, bits: int, dtype: torch.dtype, precise: frozenset[str], device: str) -> None:
    """Replace the :func:`candidates` of a shell with quantized layers.

    :param bits: 8 or 4; 0 for no quantization.
    :param precise: parts of the names of layers that compute in float32.
    :raises EngineError: EngineUnavailable if bitsandbytes is not installed or has no kernels for ``device``.
    """
    if not bits:
        return
    layers = _layers(device)
    for name, linear in candidates(module).items():
        path, _, attribute = name.rpartition(".")
        own = torch.float32 if precise.intersection(name.split(".")) else dtype
        cls = layers.Linear4 if bits == 4 and linear.in_features % layers.GROUP == 0 else layers.Linear8
        setattr(module.get_submodule(path), attribute, cls(linear, own))


def _layers(device: str) -> Any:
    """Import the layers' module after checking that it works on ``device``."""
    try:
        with environment.uncompiled():  # on MPS bitsandbytes would compile some functions for every new shape
            from locara_sidecar.engine.torch_engine.tensors import bitsandbytes_layers

        for cls in (bitsandbytes_layers.Linear8, bitsandbytes_layers.Linear4):
            tried = cls(nn.Linear(64, 64, bias=False), torch.float32)
            tried.store(torch.ones(64, 64, device=device))
            tried(torch.ones(2, 64, device=device))
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, OSError) as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not work on {device} here"
        message = f"8bit and 4bit need the package bitsandbytes, which {reason}; quantization none works without it"
        raise EngineError("EngineUnavailable", message, path="params.options.quantization") from error
    return bitsandbytes_layers


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast("Any", module).named_modules())
