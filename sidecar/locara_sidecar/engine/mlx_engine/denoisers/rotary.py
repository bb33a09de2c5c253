"""A token's position as a rotation of queries and keys (Su et al., 2021, arXiv:2104.09864).

Each pair of neighbouring numbers of a head is rotated by the token's position times the pair's frequency. A head's
pairs are divided among several axes, such as row and column. ``mx.fast.rope`` supports only one axis, the position in
the sequence. So the rotation is written out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Rotation = mx.array
"""Cosine and sine of the angle by which each pair of each token is rotated, (tokens, head size / 2, 2) in float32."""


def rotation_at(places: NDArray[Any], sizes: Sequence[int], base: float, *, rounded: bool = False) -> Rotation:
    """Compute the rotation of tokens at ``places`` (tokens, axes), once before the loop.

    :param sizes: how many numbers of a head each axis has, all even.
    :param base: of the powers that are the frequencies.
    :param rounded: round angles to float32 before taking their sines, as some models were trained.
    """
    angles = [places[:, axis, None] * base ** (-np.arange(0, size, 2) / size) for axis, size in enumerate(sizes)]
    turns: NDArray[Any] = np.concatenate(angles, axis=1)
    turns = turns.astype(np.float32).astype(np.float64) if rounded else turns
    return mx.array(np.stack([np.cos(turns), np.sin(turns)], axis=-1).astype(np.float32))


def turned(x: mx.array, rotation: Rotation) -> mx.array:
    """Rotate each pair (2i, 2i + 1) of the last axis by its angle; in float32, because angles reach hundreds.

    Inside a compiled block this is a single kernel. For that, the numbers of a pair are separated as views, before they
    are widened, and so are cosine and sine: otherwise, what two kernels need would be computed first and written to
    memory. Each product and sum is rounded once, as in the formula (a cos - b sin, a sin + b cos).

    :param x: (..., tokens, size).
    """
    pairs, cos, sin = x.reshape(*x.shape[:-1], -1, 2), rotation[..., :1], rotation[..., 1:]
    a, b = pairs[..., :1].astype(mx.float32), pairs[..., 1:].astype(mx.float32)
    across = mx.where(mx.array([True, False]), -b, a)
    return (pairs.astype(mx.float32) * cos + across * sin).astype(x.dtype).reshape(x.shape)
