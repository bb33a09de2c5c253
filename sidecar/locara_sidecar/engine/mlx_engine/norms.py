"""Norms, together with what follows them, in forms that save memory traffic on Metal and give the same numbers.

On Metal ``mx.compile`` fuses element-wise operations into one kernel, but not across a norm, which is a kernel of its
own, nor across an array that must be copied to another layout. So whatever the norm's kernel accepts is passed to it,
and the next kernel reads transposed arrays in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.kernels import group_statistics

if TYPE_CHECKING:
    from collections.abc import Collection

Activation = Callable[[mx.array], mx.array]

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


def normed(norm: nn.GroupNorm, x: mx.array, act: Activation | None = None) -> mx.array:
    """Compute ``act(norm(x))`` for a group norm and x (B, ..., C), inside a compiled block.

    Without kernels of our own (:mod:`.kernels.group_statistics`) it is ``nn.GroupNorm``, bit for bit where nothing is
    compiled; but the normed map is not transposed back before weights, bias and ``act`` read it. With them only the
    statistics come from kernels. The rest is one element-wise kernel: it norms in float32, rounds to the type of ``x``
    and applies ``act`` in that type.
    """
    weight, bias = _parameter(norm, "weight"), _parameter(norm, "bias")
    return _normed(x, weight, bias, norm.num_groups, norm.eps, act)


def normed_alone(norm: nn.GroupNorm, x: mx.array, act: Activation | None = None) -> mx.array:
    """:func:`normed`, compiled on its own: for use outside compiled blocks."""
    return _compiled(act)(x, _parameter(norm, "weight"), _parameter(norm, "bias"), norm.num_groups, norm.eps)


@functools.cache
def _compiled(act: Activation | None) -> Callable[..., mx.array]:
    return mx.compile(functools.partial(_normed, act=act))


def _normed(
    x: mx.array, weight: mx.array, bias: mx.array, groups: int, epsilon: float, act: Activation | None
) -> mx.array:
    batch, each = x.shape[0], x.shape[-1] // groups
    weight, bias = weight.reshape(groups, each), bias.reshape(groups, each)
    found = group_statistics.of(x, groups)
    if found is None:
        y = x.reshape(batch, -1, groups, each).transpose(0, 2, 1, 3)
        y = mx.fast.layer_norm(y.reshape(batch, groups, -1), None, None, epsilon)
        y = weight * y.reshape(batch, groups, -1, each).transpose(0, 2, 1, 3) + bias
    else:
        mean, variance = (values[:, None, :, None] for values in found)
        wide = x.reshape(batch, -1, groups, each).astype(mx.float32)
        y = (weight * ((wide - mean) * mx.rsqrt(variance + epsilon)) + bias).astype(x.dtype)
    return (y if act is None else act(y)).reshape(x.shape)


def _parameter(norm: Any, name: str) -> mx.array:
    return norm[name]
