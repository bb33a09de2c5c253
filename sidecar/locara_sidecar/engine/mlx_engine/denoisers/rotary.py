"""A token's position as a rotation of queries and keys (Su et al., 2021, arXiv:2104.09864), and attention with it.

Each pair of neighbouring numbers of a head is rotated by the token's position times the pair's frequency. A head's
pairs are divided among several axes, such as row and column. ``mx.fast.rope`` supports only one axis, the position in
the sequence. So the rotation is written out here and compiled with its block, which makes it a single kernel that reads
a query or key as it is and writes it rotated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Rotation(NamedTuple):
    """The tangent of half the angle by which each pair of each token is rotated, (tokens, head size / 2, 1) in float32.

    Cosine and sine follow from it by a few operations, to float32's precision. Every block reads it for queries and for
    keys, and it is half of cosine and sine. The same array twice: of one argument, ``mx.compile`` would take what both
    have in common out of their two kernels and write it to memory in between.
    """

    queries: mx.array
    keys: mx.array


def rotation_at(places: NDArray[Any], sizes: Sequence[int], base: float, *, rounded: bool = False) -> Rotation:
    """Compute the rotation of tokens at ``places`` (tokens, axes), once before the loop.

    :param sizes: how many numbers of a head each axis has, all even.
    :param base: of the powers that are the frequencies.
    :param rounded: round angles to float32 before taking their sines, as some models were trained.
    """
    angles = [places[:, axis, None] * base ** (-np.arange(0, size, 2) / size) for axis, size in enumerate(sizes)]
    turns: NDArray[Any] = np.concatenate(angles, axis=1)
    turns = turns.astype(np.float32).astype(np.float64) if rounded else turns
    halves = mx.array(np.tan(turns / 2).astype(np.float32)[..., None])  # at most 2 ** 54: its square is finite
    return Rotation(halves, halves)


def attended(q: mx.array, k: mx.array, v: mx.array, rotation: Rotation) -> mx.array:
    """Apply attention, from (B, heads, tokens, size) to (B, tokens, heads x size)."""
    q, k = turned(q, rotation.queries), turned(k, rotation.keys)
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return y.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def turned(x: mx.array, halves: mx.array) -> mx.array:
    """Rotate each pair (2i, 2i + 1) of the last axis by its angle; in float32, because angles reach hundreds.

    The numbers of a pair are separated as views and widened, all within the single kernel that this is compiled to.

    :param x: (..., tokens, size).
    :param halves: see :class:`Rotation`.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., :1].astype(mx.float32), pairs[..., 1:].astype(mx.float32)
    across = mx.where(mx.array([True, False]), -b, a)  # what the sine brings into either number
    along = pairs.astype(mx.float32) * ((1 - halves) * (1 + halves))
    y = (along + across * (2 * halves)) / (1 + halves * halves)
    return y.astype(x.dtype).reshape(x.shape)
