"""Convolutions with large kernels, computed in float32 on a processor.

oneDNN 3.12 (in torch 2.13) computes some of them wrongly in bfloat16 on Intel processors with AMX: with kernels of four
pixels or more and certain numbers of channels, the result has nothing in common with the right one, and pictures get
the wrong colours. Of 1,200 shapes tried, none with a kernel of at most three pixels was affected. Among our models only
patch embeddings have larger kernels, and they are a small share of the work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SOUND = 3
"""The largest kernel that was never seen to fail, in pixels."""


class WideConv2d(nn.Conv2d):
    """A convolution with float32 weights that takes and returns whatever type the network computes in."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input`` (B, C, height, width) in float32; the result has its type."""
        return super().forward(input.float()).to(input.dtype)


def widen(module: nn.Module, device: str) -> None:
    """Replace the large convolutions of a loaded network, if ``device`` is a processor and they are not float32."""
    if device != "cpu":
        return
    for layer in module.modules():
        if type(layer) is nn.Conv2d and max(layer.kernel_size) > _SOUND and layer.weight.dtype != torch.float32:
            layer.__class__ = WideConv2d
            layer.float()
