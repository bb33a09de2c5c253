"""Hooks that let a transformer compute in float16 without leaving its range (65,504)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

LESS = 64
"""A power of two, so dividing by it is exact."""


def widened(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Forward hook: return a layer's output in a type wide enough for sums."""
    del layer, args
    return output.float()


def a_part(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Forward hook: return a 64th of a layer's output."""
    del layer, args
    return output / LESS


def of_a_part(layer: nn.Module, args: Any) -> Any:
    """Forward pre-hook: give a layer a 64th of its first input."""
    del layer
    first, *others = args
    return (first / LESS, *others)


def as_the_weights(layer: nn.Module, args: Any) -> Any:
    """Forward pre-hook: convert a layer's first input to the type of its weights."""
    first, *others = args
    return (cast("torch.Tensor", first).to(next(layer.parameters()).dtype), *others)
