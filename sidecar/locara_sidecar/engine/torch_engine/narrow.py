"""Hooks that let a transformer compute in float16 without leaving its range (65,504)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

LESS = 64
"""A power of two: dividing by it changes no digit."""


def widened(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Forward hook: what a layer gives, in a type that holds sums of it."""
    del layer, args
    return output.float()


def a_part(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Forward hook: a 64th of what a layer gives."""
    del layer, args
    return output / LESS


def as_the_weights(layer: nn.Module, args: Any) -> Any:
    """Forward pre-hook: a layer's first input in the type of its weights."""
    first, *others = args
    return (cast("torch.Tensor", first).to(next(layer.parameters()).dtype), *others)
