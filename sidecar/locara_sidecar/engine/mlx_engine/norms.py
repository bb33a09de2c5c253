"""Norms, together with what follows them, in forms that save memory traffic on Metal and give the same numbers.

On Metal ``mx.compile`` fuses element-wise operations into one kernel, but not across a norm, which is a kernel of its
own, nor across an array that must be copied to another layout. So whatever the norm's kernel accepts is passed to it,
and the next kernel reads transposed arrays in place.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

EPSILON = 1e-6
"""For the transformers' norms."""


def modulated(x: mx.array, shift: mx.array, scale: mx.array, epsilon: float = EPSILON) -> mx.array:
    """Apply a norm without weights, then multiply by ``scale`` and add ``shift``; for a batch of one, in one kernel.

    :param x: (B, tokens, width); ``shift`` and ``scale`` are (B, 1, width).
    """
    if x.shape[0] == 1:
        return mx.fast.layer_norm(x, scale.reshape(-1), shift.reshape(-1), epsilon)
    return mx.fast.layer_norm(x, None, None, epsilon) * scale + shift


def raised(made: mx.array, parts: int, scales: Collection[int]) -> mx.array:
    """Add 1 to the scales of a modulation, which its linear layer returns relative to 1. Done once for all steps.

    :param made: (..., parts x width).
    :param scales: indices of the parts that are scales.
    """
    ones = mx.array([[float(part in scales)] for part in range(parts)], dtype=made.dtype)
    return (made.reshape(*made.shape[:-1], parts, -1) + ones).reshape(made.shape)


def normed(norm: nn.GroupNorm, x: mx.array, act: Callable[[mx.array], mx.array] | None = None) -> mx.array:
    """Compute ``act(norm(x))`` for a group norm and x (B, ..., C), bit for bit.

    ``nn.GroupNorm`` restores the layout of the normed map before it applies weights and bias; here they and ``act``
    read it transposed.
    """
    batch, channels, groups = x.shape[0], x.shape[-1], norm.num_groups
    y = x.reshape(batch, -1, groups, channels // groups).transpose(0, 2, 1, 3)
    y = mx.fast.layer_norm(y.reshape(batch, groups, -1), None, None, norm.eps)
    y = y.reshape(batch, groups, -1, channels // groups).transpose(0, 2, 1, 3)
    weight, bias = (values.reshape(groups, -1) for values in (_parameter(norm, "weight"), _parameter(norm, "bias")))
    y = weight * y + bias
    return (y if act is None else act(y)).reshape(x.shape)


@partial(mx.compile)
def _with_silu(x: mx.array, weight: mx.array, bias: mx.array, groups: int, epsilon: float) -> mx.array:
    norm = nn.GroupNorm(groups, x.shape[-1], eps=epsilon, affine=False, pytorch_compatible=True)
    norm.weight, norm.bias = weight, bias
    return normed(norm, x, nn.silu)


def normed_silu(norm: nn.GroupNorm, x: mx.array) -> mx.array:
    """:func:`normed` with SiLU, compiled on its own: for use outside compiled blocks."""
    return _with_silu(x, _parameter(norm, "weight"), _parameter(norm, "bias"), norm.num_groups, norm.eps)


def _parameter(norm: Any, name: str) -> mx.array:
    return norm[name]
