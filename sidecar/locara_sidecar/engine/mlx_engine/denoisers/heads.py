"""Attention of transformers with rotary positions, over the tokens of one stream or of several.

Queries and keys are normed head by head, if the model has norms for that, and rotated (:mod:`.rotary`). Where it can be
used, one kernel of our own does both (:mod:`~locara_sidecar.engine.mlx_engine.kernels.turned_heads`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from locara_sidecar.engine.mlx_engine.denoisers import rotary
from locara_sidecar.engine.mlx_engine.kernels import turned_heads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx import nn


class Norms(NamedTuple):
    """The norms of one stream's queries and keys."""

    q: nn.RMSNorm
    k: nn.RMSNorm


class Stream(NamedTuple):
    """Queries, keys and values of one stream as their layers made them, each (B, tokens, heads x size)."""

    q: mx.array
    k: mx.array
    v: mx.array
    size: int
    norms: Norms | None


def attended(streams: Sequence[Stream], rotation: rotary.Rotation) -> mx.array:
    """Apply attention over all streams' tokens, in order; return (B, tokens, heads x size).

    :param streams: one or two. Their norms have the same epsilon.
    :param rotation: of all tokens.
    """
    q, k, v = prepared(streams, rotation)
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)
    return y.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def prepared(streams: Sequence[Stream], rotation: rotary.Rotation) -> tuple[mx.array, mx.array, mx.array]:
    """Return queries and keys, normed and rotated, and values of all streams, each (B, heads, tokens, size)."""
    found = _in_one_kernel(streams, rotation)
    q, k = _in_several(streams, rotation) if found is None else found
    v = _joined([stream.v for stream in streams], 1)
    return q, k, v.reshape(*v.shape[:2], -1, streams[0].size).transpose(0, 2, 1, 3)


def _in_one_kernel(streams: Sequence[Stream], rotation: rotary.Rotation) -> tuple[mx.array, mx.array] | None:
    given: list[turned_heads.Stream] = []
    epsilon = 0.0
    for stream in streams:
        if stream.norms is None:
            return None
        epsilon = stream.norms.q.eps
        given.append(turned_heads.Stream(stream.q, stream.k, stream.norms.q.weight, stream.norms.k.weight))
    return turned_heads.of(given, rotation, epsilon)


def _in_several(streams: Sequence[Stream], rotation: rotary.Rotation) -> tuple[mx.array, mx.array]:
    """Norm each stream's, lay all together and rotate them: MLX's own operations."""
    normed = [_normed(stream) for stream in streams]
    q, k = (_joined([both[i] for both in normed], 2) for i in range(2))
    return rotary.turned(q, rotation), rotary.turned(k, rotation)


def _normed(stream: Stream) -> tuple[mx.array, mx.array]:
    q, k = (x.reshape(*x.shape[:2], -1, stream.size) for x in (stream.q, stream.k))
    if stream.norms is not None:
        q, k = stream.norms.q(q), stream.norms.k(k)
    return q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
