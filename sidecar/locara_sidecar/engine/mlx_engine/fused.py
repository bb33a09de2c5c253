"""Arithmetic between the matrix products, compiled: one kernel where there would be several, each reading and writing
all activations.

Only functions without weights are compiled here: they outlive models, and a compiled function keeps alive what it
captures. (MMDiT compiles its blocks as a whole, in functions that are dropped with it.) On the CPU compiling is
off (``device.py``), and these are plain functions.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx
from mlx import nn

_EPSILON = 1e-6


def modulated(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    """The norm without weights of its own, then scaled and shifted."""
    return scaled(mx.fast.layer_norm(x, None, None, _EPSILON), shift, scale)


@partial(mx.compile, shapeless=True)
def scaled(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    """``x`` scaled by 1 + ``scale`` and shifted."""
    return x * (1 + scale) + shift


@partial(mx.compile, shapeless=True)
def gated(x: mx.array, gate: mx.array, branch: mx.array) -> mx.array:
    """``x`` with a branch added through its gate."""
    return x + gate * branch


@mx.compile
def turned(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Each pair (2i, 2i + 1) of the last axis turned by its angle; in float32, because angles reach hundreds.

    :param x: (..., tokens, size).
    :param cos: and ``sin``, of the angles: (tokens, size / 2).
    """
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).astype(x.dtype)


@mx.compile
def gelu_gated(both: mx.array) -> mx.array:
    """The first half of the last axis times GELU of the second."""
    value, gate = mx.split(both, 2, axis=-1)
    return value * nn.gelu(gate)
