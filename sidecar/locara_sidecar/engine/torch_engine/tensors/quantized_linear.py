"""The interface of a quantized layer, independent of the library behind it."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional


class QuantizedLinear(nn.Module):
    """Replaces an ``nn.Linear`` of ``shape`` (outputs, inputs). Its weight is set by :meth:`store`."""

    weight = None
    """Not a tensor, because transformers' T5 would convert its input to the tensor's type."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = (linear.out_features, linear.in_features)
        self.dtype = dtype
        self.bias = cast("nn.Parameter | None", linear.bias)

    def store(self, weight: torch.Tensor) -> None:
        """Quantize and keep ``weight`` (outputs, inputs) on its device."""
        raise NotImplementedError

    def dequantized(self) -> torch.Tensor:
        """Return the weight as used in computations."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x.to(self.dtype), self.dequantized(), self.bias)

    def _keep(self, **tensors: torch.Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
