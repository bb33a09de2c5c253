"""The quantized layers, using bitsandbytes; ``quantization.py`` describes them and imports them on demand."""

from __future__ import annotations

from typing import Any, cast

import bitsandbytes as _bitsandbytes
import torch
from torch import nn
from torch.nn import functional

from locara_sidecar.engine.torch_engine.tensors.quantized_linear import QuantizedLinear

bitsandbytes: Any = _bitsandbytes
kernels: Any = bitsandbytes.functional

GROUP = 64
_FEW_ROWS = {torch.bfloat16: 16, torch.float32: 1}
"""Up to how many rows torch's int8 weight kernel is faster, on the CPU."""
_WHOLE = 16
"""That kernel reads past rows that are not a multiple of this (torch 2.13, bfloat16): wrong numbers, or a crash."""
_PIECE = 1 << 20
"""Weights quantized to 4 bits at once: on a CPU three times as fast as a whole layer, and almost no extra memory."""


class Linear8(QuantizedLinear):
    """``values`` int8 (outputs, inputs), ``scales`` (outputs,)."""

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        values = torch.empty(self.shape, dtype=torch.int8, device="meta")
        self._keep(values=values, scales=torch.empty(self.shape[0], dtype=dtype, device="meta"))

    def store(self, weight: torch.Tensor) -> None:
        weight = weight.half() if weight.is_cuda else weight  # its CUDA kernel accepts nothing else
        values, largest, _ = kernels.int8_vectorwise_quant(weight)
        self._keep(values=values, scales=(largest / 127).to(self.dtype))

    def dequantized(self) -> torch.Tensor:
        return self.values.to(self.dtype).mul_(self.scales[:, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.dtype)
        inputs = x.shape[-1]
        count = x.numel() // inputs
        if x.device.type == "cpu" and count <= _FEW_ROWS.get(x.dtype, 0) and inputs % _WHOLE == 0:
            rows = x.reshape(-1, inputs).contiguous()  # a UNet's rows are transposed pixels
            multiply = cast("Any", torch)._weight_int8pack_mm  # noqa: SLF001 -- torch has no other name for it
            y: torch.Tensor = multiply(rows, self.values, self.scales)
            y = y.view(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias
        # scale whichever is smaller, weight or output; in float16 the weight, as unscaled integers times inputs would
        # overflow
        if count > inputs // 2 or self.dtype == torch.float16:
            return functional.linear(x, self.dequantized(), self.bias)
        y = functional.linear(x, self.values.to(self.dtype))
        return y * self.scales if self.bias is None else torch.addcmul(self.bias, y, self.scales)


class Linear4(QuantizedLinear):
    """``values`` uint8 (outputs x inputs / 2, 1), two weights per byte; ``scales`` float32, one per group."""

    values: torch.Tensor
    scales: torch.Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(linear, dtype)
        count = self.shape[0] * self.shape[1]
        values = torch.empty((count + 1) // 2, 1, dtype=torch.uint8, device="meta")
        self._keep(values=values, scales=torch.empty(-(-count // GROUP), device="meta"))
        self._state: Any = None

    def store(self, weight: torch.Tensor) -> None:
        flat: Any = weight.reshape(-1)
        pieces = [
            kernels.quantize_4bit(piece.float(), blocksize=GROUP, quant_type="nf4") for piece in flat.split(_PIECE)
        ]
        scales = torch.cat([state.absmax for _, state in pieces])
        self._keep(values=torch.cat([values for values, _ in pieces]), scales=scales)
        self._state = kernels.QuantState(
            absmax=scales,
            shape=torch.Size(self.shape),
            code=pieces[0][1].code,
            blocksize=GROUP,
            quant_type="nf4",
            dtype=self.dtype,
        )

    def dequantized(self) -> torch.Tensor:
        weight: torch.Tensor = kernels.dequantize_4bit(self.values, self._state)
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = bitsandbytes.matmul_4bit(x.to(self.dtype), self.values.t(), self._state, bias=self.bias)
        return y
