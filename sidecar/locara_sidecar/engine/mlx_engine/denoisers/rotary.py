"""Where a token is, as a rotation of queries and keys (Su et al., 2021, arXiv:2104.09864), and attention with it.

Each pair of neighbouring numbers of a head turns by the token's position times the pair's frequency. A head's pairs are
shared out among axes, such as row and column. ``mx.fast.rope`` knows of one place, that in the sequence; so the turning
is written out and compiled with its block, so that one kernel reads a query or key as it lies and writes it turned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Rotation(NamedTuple):
    """What the ``first`` number of each pair gives to both of the turned pair (cosine and sine of the token's angle),
    and what the ``second`` one gives (minus sine and cosine); each (tokens, head size / 2, 2), float32."""

    first: mx.array
    second: mx.array


def rotation_at(places: NDArray[Any], sizes: Sequence[int], base: float, *, rounded: bool = False) -> Rotation:
    """How tokens at ``places`` (tokens, axes) are turned. Computed once, before the loop.

    :param sizes: numbers of a head that each axis has, all even.
    :param base: of the frequencies' powers.
    :param rounded: angles are rounded to float32 before they become sines, as some models were trained.
    """
    angles = [places[:, axis, None] * base ** (-np.arange(0, size, 2) / size) for axis, size in enumerate(sizes)]
    turns: NDArray[Any] = np.concatenate(angles, axis=1)
    turns = turns.astype(np.float32).astype(np.float64) if rounded else turns
    cos, sin = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)
    return Rotation(*(mx.array(np.stack(pair, axis=-1)) for pair in ((cos, sin), (-sin, cos))))


def attended(q: mx.array, k: mx.array, v: mx.array, rotation: Rotation) -> mx.array:
    """(B, heads, tokens, size) to (B, tokens, heads x size)."""
    q, k = turned(q, *rotation), turned(k, *rotation)
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return y.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def turned(x: mx.array, first: mx.array, second: mx.array) -> mx.array:
    """Each pair (2i, 2i + 1) of the last axis turned by its angle; in float32, because angles reach hundreds.

    Both numbers of a pair are taken apart as views and widened inside the one kernel that this becomes.

    :param x: (..., tokens, size).
    :param first: and ``second``: see :class:`Rotation`.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., :1].astype(mx.float32), pairs[..., 1:].astype(mx.float32)
    return (a * first + b * second).astype(x.dtype).reshape(x.shape)
