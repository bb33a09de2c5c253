"""Weight-only quantization of linear layers: 8 bits a row, or 4 bits in groups of 64, computed in the job's precision.

A layer keeps its weight as small integers and makes the floating one anew for each call; what a call allocates is gone
after it. Quantized are the linear layers *inside* blocks (members of a ``ModuleList``): those hold nearly all of the
weights. What is before and after the blocks (embeddings, projections in and out), norms, biases and convolutions stay.

- 8 bits: ``w = scale q``, q in -127 … 127, one scale a row: 8 bits a weight.
- 4 bits: ``w = low + scale q``, q in 0 … 15, for every 64 inputs: 4.5 bits a weight. A layer whose inputs are no
  multiple of 64 gets 8 bits.

Why our own, tried with torch 2.13 and diffusers 0.42.1, one 3072 x 12288 layer on 512 rows in bfloat16, two busy cores,
times relative to the unquantized layer in the same run: ours 1.5 (8 bits) and 3.0 (4 bits); torchao 0.18 1.3 (8 bits),
but importing it takes 1.2 s and prints failures of its compiled parts to stderr, diffusers cannot import its tensor
classes, and its 4 bits need one more package; optimum-quanto 0.2.7 3.8 and 2.7, and it has had no release for long.
With few rows (modulation: one) torch's own kernel ``_weight_int8pack_mm`` is nine times faster on the CPU than making
the weight; with many it is three times slower.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

GROUP = 64
BITS: dict[str, int] = {"none": 0, "8bit": 8, "4bit": 4}
_FEW_ROWS = {torch.bfloat16: 16, torch.float32: 1}
"""Up to how many rows torch's kernel for packed integers is the faster one, on the CPU."""


class QuantizedLinear(nn.Module):
    """Stands for an ``nn.Linear`` of ``shape`` (outputs, inputs). Its weight comes through :meth:`store`."""

    weight = None
    """transformers' T5 converts its input to the type of this where it is a tensor; it must not."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = (linear.out_features, linear.in_features)
        self.dtype = dtype
        self.bias = cast("nn.Parameter | None", linear.bias)

    def store(self, weight: torch.Tensor) -> None:
        """Quantize and keep ``weight`` (outputs, inputs), on its device."""
        raise NotImplementedError

    def dequantized(self) -> torch.Tensor:
        """The weight as it is computed with."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x.to(self.dtype), self.dequantized(), self.bias)

    def _keep(self, **tensors: torch.Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class Linear8(QuantizedLinear):
    """``values`` int8 (outputs, inputs), ``scales`` (outputs,)."""

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        values = torch.empty(self.shape, dtype=torch.int8, device="meta")
        self._keep(values=values, scales=torch.empty(self.shape[0], dtype=dtype, device="meta"))

    def store(self, weight: torch.Tensor) -> None:
        weight = weight.float()
        scales = _nonzero(weight.abs().amax(1) / 127).to(self.dtype)
        values = (weight / scales.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        self._keep(values=values, scales=scales)

    def dequantized(self) -> torch.Tensor:
        return self.values.to(self.dtype) * self.scales[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.dtype)
        if x.device.type == "cpu" and x.numel() <= _FEW_ROWS.get(x.dtype, 0) * x.shape[-1]:
            rows = x.reshape(-1, x.shape[-1])
            y: torch.Tensor = cast("Any", torch)._weight_int8pack_mm(rows, self.values, self.scales)
            y = y.view(*x.shape[:-1], -1)
        elif self.dtype == torch.float16:  # integers times inputs would leave its range
            y = functional.linear(x, self.dequantized())
        else:  # scaling what comes out is cheaper than scaling the weight
            y = functional.linear(x, self.values.to(self.dtype)) * self.scales
        return y if self.bias is None else y + self.bias


class Linear4(QuantizedLinear):
    """``values`` uint8 (outputs, groups, 32): inputs j and j + 32 of a group share a byte, j in its low half.
    ``scales`` and ``lows``: (outputs, groups, 1)."""

    values: torch.Tensor
    scales: torch.Tensor
    lows: torch.Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        outputs, groups = self.shape[0], self.shape[1] // GROUP
        values = torch.empty(outputs, groups, GROUP // 2, dtype=torch.uint8, device="meta")
        scales, lows = (torch.empty(outputs, groups, 1, dtype=dtype, device="meta") for _ in range(2))
        self._keep(values=values, scales=scales, lows=lows)

    def store(self, weight: torch.Tensor) -> None:
        grouped = weight.float().view(self.shape[0], -1, GROUP)
        low, high = grouped.amin(2, keepdim=True), grouped.amax(2, keepdim=True)
        lows = low.to(self.dtype)
        # the values are chosen for the scale and the low end as they are kept, rounded
        scales = _nonzero((high - lows.float()) / 15).to(self.dtype)
        steps = ((grouped - lows.float()) / scales.float()).round_().clamp_(0, 15).to(torch.uint8)
        half = GROUP // 2
        self._keep(values=steps[..., :half] | (steps[..., half:] << 4), scales=scales, lows=lows)

    def dequantized(self) -> torch.Tensor:
        steps = torch.cat((self.values & 15, self.values >> 4), dim=2).to(self.dtype)
        return torch.addcmul(self.lows, steps, self.scales).view(self.shape)


def candidates(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of ``module`` that are quantized, by their names in it."""
    lists = [name for name, part in _named(module) if isinstance(part, nn.ModuleList)]
    return {
        name: part
        for name, part in _named(module)
        if type(part) is nn.Linear and any(name.startswith(f"{inside}.") for inside in lists)
    }


def prepare(module: nn.Module, bits: int, dtype: torch.dtype, precise: set[str]) -> None:
    """Put quantized layers in place of the :func:`candidates` of a shell.

    :param bits: 8 or 4; 0 for nothing.
    :param precise: parts of names whose layers compute in float32.
    """
    for name, linear in candidates(module).items() if bits else ():
        path, _, attribute = name.rpartition(".")
        cls = Linear4 if bits == 4 and linear.in_features % GROUP == 0 else Linear8
        own = torch.float32 if precise.intersection(name.split(".")) else dtype
        setattr(module.get_submodule(path), attribute, cls(linear, own))


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(cast("Any", module).named_modules())


def _nonzero(scales: torch.Tensor) -> torch.Tensor:
    """Rows and groups of equal weights have no step; any will do."""
    return torch.where(scales > 0, scales, 1.0)
