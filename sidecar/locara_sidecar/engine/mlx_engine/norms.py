"""Norms, with what follows them, in forms that take little memory traffic on Metal and give the same numbers.

On Metal ``mx.compile`` makes one kernel of element-wise operations, but not across a norm, which is a kernel of its
own, nor across an array that must be laid otherwise. So what can be given to the norm's kernel is, and what lies
otherwise is read as it lies by the kernel that follows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

EPSILON = 1e-6
"""Of the transformers' norms."""


def modulated(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    """The norm without weights of its own, times ``scale``, plus ``shift``: of one picture they go into its kernel.

    :param x: (B, tokens, width); ``shift`` and ``scale`` (B, 1, width).
    """
    if x.shape[0] == 1:
        return mx.fast.layer_norm(x, scale.reshape(-1), shift.reshape(-1), EPSILON)
    return mx.fast.layer_norm(x, None, None, EPSILON) * scale + shift


def raised(made: mx.array, parts: int, scales: Collection[int]) -> mx.array:
    """Modulation as :func:`modulated` takes it: a linear layer gives scales as steps away from 1. Once for all steps.

    :param made: (..., parts x width).
    :param scales: which of the parts are scales.
    """
    ones = mx.array([[float(part in scales)] for part in range(parts)], dtype=made.dtype)
    return (made.reshape(*made.shape[:-1], parts, -1) + ones).reshape(made.shape)


def normed(norm: nn.GroupNorm, x: mx.array, act: Callable[[mx.array], mx.array] | None = None) -> mx.array:
    """A norm over groups of channels (B, ..., C), and a function: what ``act(norm(x))`` gives, to the bit.

    ``nn.GroupNorm`` lays the normed map back before it goes on; here weights, bias and ``act`` read it as it lies.
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
    """:func:`normed` with SiLU, compiled by itself: for places that are in no compiled block."""
    return _with_silu(x, _parameter(norm, "weight"), _parameter(norm, "bias"), norm.num_groups, norm.eps)


def _parameter(norm: Any, name: str) -> mx.array:
    return norm[name]
