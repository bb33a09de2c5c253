"""What a quantized layer is to the rest of the engine, whichever library computes with it."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional


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
