"""Feature maps (B, height, width, C) made larger by repeating their pixels."""

from __future__ import annotations

import mlx.core as mx


def doubled(x: mx.array) -> mx.array:
    """Double the size, repeating each pixel, in one copy."""
    batch, height, width, channels = x.shape
    wide = mx.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return wide.reshape(batch, 2 * height, 2 * width, channels)


def nearest(x: mx.array, size: tuple[int, ...]) -> mx.array:
    """Resize ``x`` to ``size`` (height, width), about twice its own, by nearest neighbour (rounding down)."""
    if size == (2 * x.shape[1], 2 * x.shape[2]):
        return doubled(x)
    for axis, wanted in zip((1, 2), size, strict=True):
        there = x.shape[axis]
        x = mx.take(x, mx.array([i * there // wanted for i in range(wanted)]), axis=axis)
    return x
