"""Activation functions by the names that diffusers' and transformers' configurations use.

``engine/folder/config_members.py`` defines which names exist, so that both engines accept the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
from mlx import nn

Activation = Callable[[mx.array], mx.array]


def _clipped_gelu(x: mx.array) -> mx.array:
    return mx.clip(nn.gelu(x), -10, 10)


def _mish(x: mx.array) -> mx.array:
    return x * mx.tanh(mx.logaddexp(x, mx.zeros((), x.dtype)))


def _quick_gelu(x: mx.array) -> mx.array:
    """The sigmoid approximation of GELU."""
    return x * mx.sigmoid(1.702 * x)


def _relu_squared(x: mx.array) -> mx.array:
    return mx.square(nn.relu(x))


def _linear(x: mx.array) -> mx.array:
    return x


ACTIVATIONS: Mapping[str, Activation] = {
    **dict.fromkeys(("gelu", "gelu_python"), nn.gelu),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"), nn.gelu_approx
    ),
    **dict.fromkeys(("silu", "swish"), nn.silu),
    "gelu_10": _clipped_gelu,
    "quick_gelu": _quick_gelu,
    "mish": _mish,
    "relu": nn.relu,
    "relu2": _relu_squared,
    "relu6": nn.relu6,
    "leaky_relu": nn.leaky_relu,
    "hardswish": nn.hardswish,
    "sigmoid": mx.sigmoid,
    "tanh": mx.tanh,
    "linear": _linear,
}
