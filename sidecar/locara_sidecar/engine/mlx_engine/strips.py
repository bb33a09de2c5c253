"""The autoencoder in strips on MLX (``engine/drawing/strips.py``); maps are (B, height, width, C)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.drawing.strips import Layer, Strips
from locara_sidecar.engine.mlx_engine.kernels import group_statistics

if TYPE_CHECKING:
    from locara_sidecar.engine.mlx_engine.pace import Paced


class MlxStrips(Strips[mx.array]):
    """The engine's strips.

    :param pace: called with every strip, which submits the work so far and lets the job stop.
    """

    rows_axis = 1

    def __init__(self, pace: Paced, numbers: int | None = None) -> None:
        super().__init__(numbers)
        self._pace = pace

    def join(self, arrays: list[mx.array]) -> mx.array:
        return mx.concatenate(arrays, axis=self.rows_axis)

    def moments(self, x: mx.array) -> tuple[mx.array, mx.array]:
        if (found := group_statistics.of(x, x.shape[-1])) is not None:
            self._pace(*found)
            return found
        mean = x.astype(mx.float32).mean(axis=(1, 2), keepdims=True)
        variance = _squared(x, mean).mean(axis=(1, 2))
        self._pace(mean, variance)
        return mean[:, 0, 0], variance

    def stacked(self, values: list[Any]) -> mx.array:
        return mx.stack(values)

    def beside(self, values: list[float], array: mx.array) -> mx.array:
        del array
        return mx.array(values)

    def activated(self, x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
        return _activated(x, scale[:, None, None], shift[:, None, None])

    def groups(self, norm: Layer) -> int:
        return norm.num_groups

    def applied(self, layer: Layer, x: mx.array, first: int, end: int, onto: mx.array | None) -> mx.array:
        """Add the bias where the result is added to something: one pass over the rows instead of two."""
        if onto is None or "bias" not in layer:
            return super().applied(layer, x, first, end, onto)
        y = mx.conv2d(x, layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups)
        return _added(onto, y[:, first:end], layer.bias)

    def finished(self, x: mx.array) -> mx.array:
        self._pace(x)
        return x

    def _wide(self, values: Any) -> mx.array:
        return values.astype(mx.float32)


@partial(mx.compile, shapeless=True)
def _squared(x: mx.array, mean: mx.array) -> mx.array:
    return mx.square(x.astype(mx.float32) - mean)


@partial(mx.compile, shapeless=True)
def _added(x: mx.array, y: mx.array, bias: mx.array) -> mx.array:
    return x + (y + bias)


@partial(mx.compile, shapeless=True)
def _activated(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    return nn.silu((x * scale + shift).astype(x.dtype))
