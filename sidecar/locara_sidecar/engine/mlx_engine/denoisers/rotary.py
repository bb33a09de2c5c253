"""A token's position as a rotation of queries and keys (Su et al., 2021, arXiv:2104.09864), and attention with it.

Each pair of neighbouring numbers of a head is rotated by the token's position times the pair's frequency. A head's
pairs are divided among several axes, such as row and column. ``mx.fast.rope`` supports only one axis, the position in
the sequence. So the rotation is written out here.

Before it, queries and keys are normed head by head, if the model has norms for that. Where it can be used, one kernel
of our own does both (:mod:`~locara_sidecar.engine.mlx_engine.kernels.rotated_heads`). It also serves models that only
norm them: it then rotates by nothing (:func:`still`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

from locara_sidecar.engine.mlx_engine.kernels import rotated_heads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx import nn
    from numpy.typing import NDArray

Rotation = mx.array
"""Cosine and sine of the angle by which each pair of each token is rotated, (tokens, head size / 2, 2) in float32."""


def rotation_at(places: NDArray[Any], sizes: Sequence[int], base: float, *, rounded: bool = False) -> Rotation:
    """Compute the rotation of tokens at ``places`` (tokens, axes), once before the loop.

    :param sizes: how many numbers of a head belong to each axis, all even.
    :param base: the base of the frequencies, which are its powers.
    :param rounded: round angles to float32 before taking their sines, as some models were trained.
    """
    angles = [places[:, axis, None] * base ** (-np.arange(0, size, 2) / size) for axis, size in enumerate(sizes)]
    turns: NDArray[Any] = np.concatenate(angles, axis=1)
    turns = turns.astype(np.float32).astype(np.float64) if rounded else turns
    return mx.array(np.stack([np.cos(turns), np.sin(turns)], axis=-1).astype(np.float32))


def still(tokens: int, heads: tuple[int, int] | None, dtype: mx.Dtype) -> Rotation | None:
    """Return the rotation of tokens without positions: by nothing if our kernel is used, else None.

    :param heads: their number and size; None if they are not normed as the kernel does it.
    """
    if heads is None or not rotated_heads.is_used(rotated_heads.Use(dtype, *heads)):
        return None
    return mx.zeros((tokens, heads[1] // 2, 2)) + mx.array([1.0, 0.0])  # contiguous, as the kernel reads it


def rotated(x: mx.array, rotation: Rotation) -> mx.array:
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


class Norms(NamedTuple):
    """The norms of one stream's queries and keys. (SD 3 may have others than RMS norms; these are never rotated.)"""

    q: nn.RMSNorm
    k: nn.RMSNorm


class Stream(NamedTuple):
    """Queries, keys and values of one stream as their layers output them, each (B, tokens, heads x size)."""

    q: mx.array
    k: mx.array
    v: mx.array
    size: int
    norms: Norms | None


def attended(streams: Sequence[Stream], rotation: Rotation | None) -> mx.array:
    """Apply attention over all streams' tokens, in order; return (B, tokens, heads x size).

    :param streams: one or two. Their norms have the same epsilon.
    :param rotation: of all tokens; None: they are not rotated, nor normed by our kernel.
    """
    return attention(*prepared(streams, rotation))


def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Attention, from (B, heads, tokens, size) to (B, tokens, heads x size)."""
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return y.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def prepared(streams: Sequence[Stream], rotation: Rotation | None) -> tuple[mx.array, mx.array, mx.array]:
    """Return queries and keys, normed and rotated, and values of all streams, each (B, heads, tokens, size)."""
    found = None if rotation is None else _in_one_kernel(streams, rotation)
    q, k = _in_several(streams, rotation) if found is None else found
    v = _joined([stream.v for stream in streams], 1)
    return q, k, v.reshape(*v.shape[:2], -1, streams[0].size).transpose(0, 2, 1, 3)


def _in_one_kernel(streams: Sequence[Stream], rotation: Rotation) -> tuple[mx.array, mx.array] | None:
    given: list[rotated_heads.Stream] = []
    epsilon = 0.0
    for stream in streams:
        if stream.norms is None:
            return None
        epsilon = stream.norms.q.eps
        given.append(rotated_heads.Stream(stream.q, stream.k, stream.norms.q.weight, stream.norms.k.weight))
    return rotated_heads.of(given, rotation, epsilon)


def _in_several(streams: Sequence[Stream], rotation: Rotation | None) -> tuple[mx.array, mx.array]:
    """Norm each stream's, concatenate and rotate them, with MLX's own operations."""
    normed = [_normed(stream) for stream in streams]
    q, k = (_joined([both[i] for both in normed], 2) for i in range(2))
    return (q, k) if rotation is None else (rotated(q, rotation), rotated(k, rotation))


def _normed(stream: Stream) -> tuple[mx.array, mx.array]:
    q, k = (x.reshape(*x.shape[:2], -1, stream.size) for x in (stream.q, stream.k))
    if stream.norms is not None:
        q, k = stream.norms.q(q), stream.norms.k(k)
    return q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
