"""A token's position as a rotation of queries and keys (Su et al., 2021, arXiv:2104.09864), and attention with it.

Each pair of neighbouring numbers of a head is rotated by the token's position times the pair's frequency. A head's
pairs are divided among several axes, such as row and column. ``mx.fast.rope`` supports only one axis, the position in
the sequence. So the rotation is written out here.

Before it, queries and keys are normed head by head, if the model has norms for that. Where it can be used, one kernel
of our own does both (:mod:`~locara_sidecar.engine.mlx_engine.kernels.rotated_heads`). It also serves models that only
norm them: it then rotates by nothing (:func:`still`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx

from locara_sidecar.engine.mlx_engine.kernels import rotated_heads
from locara_sidecar.engine.mlx_engine.rotation import ByAxis, by_nothing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx import nn

Rotation = ByAxis | mx.array
"""The rotation of all tokens, as blocks get it: for our kernel by axis, for MLX's own operations
:meth:`.ByAxis.table`.
"""


def for_blocks(rotation: ByAxis, heads: tuple[int, int] | None, dtype: mx.Dtype) -> Rotation:
    """Return ``rotation`` in the form that blocks need; once before the loop, so that a table is made only once.

    :param heads: their number and size; None if they are not normed as the kernel does it.
    """
    return rotation if _in_kernel(heads, dtype) else rotation.table()


def still(tokens: int, heads: tuple[int, int] | None, dtype: mx.Dtype) -> ByAxis | None:
    """Return the rotation of tokens without positions: by nothing if our kernel is used, else None.

    :param heads: as in :func:`for_blocks`.
    """
    return None if heads is None or not _in_kernel(heads, dtype) else by_nothing(tokens, heads[1])


def _in_kernel(heads: tuple[int, int] | None, dtype: mx.Dtype) -> bool:
    return heads is not None and rotated_heads.is_used(rotated_heads.Use(dtype, *heads))


def rotated(x: mx.array, table: mx.array) -> mx.array:
    """Rotate each pair (2i, 2i + 1) of the last axis by its angle; in float32, because angles reach hundreds.

    Inside a compiled block this is a single kernel. For that, the numbers of a pair are separated as views, before they
    are widened, and so are cosine and sine: otherwise, what two kernels need would be computed first and written to
    memory. Each product and sum is rounded once, as in the formula (a cos - b sin, a sin + b cos).

    :param x: (..., tokens, size).
    :param table: see :meth:`.ByAxis.table`.
    """
    pairs, cos, sin = x.reshape(*x.shape[:-1], -1, 2), table[..., :1], table[..., 1:]
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
    found = _in_one_kernel(streams, rotation) if isinstance(rotation, ByAxis) else None
    q, k = _in_several(streams, rotation) if found is None else found
    v = _joined([stream.v for stream in streams], 1)
    return q, k, v.reshape(*v.shape[:2], -1, streams[0].size).transpose(0, 2, 1, 3)


def _in_one_kernel(streams: Sequence[Stream], rotation: ByAxis) -> tuple[mx.array, mx.array] | None:
    given: list[rotated_heads.Stream] = []
    epsilons = set[float]()
    for stream in streams:
        if stream.norms is None:
            return None
        epsilons |= {norm.eps for norm in stream.norms}
        given.append(rotated_heads.Stream(stream.q, stream.k, stream.norms.q.weight, stream.norms.k.weight))
    return rotated_heads.of(given, rotation, epsilons.pop()) if len(epsilons) == 1 else None


def _in_several(streams: Sequence[Stream], rotation: Rotation | None) -> tuple[mx.array, mx.array]:
    """Norm each stream's, concatenate and rotate them, with MLX's own operations."""
    normed = [_normed(stream) for stream in streams]
    q, k = (_joined([both[i] for both in normed], 2) for i in range(2))
    if rotation is None:
        return q, k
    table = rotation.table() if isinstance(rotation, ByAxis) else rotation
    return rotated(q, table), rotated(k, table)


def _normed(stream: Stream) -> tuple[mx.array, mx.array]:
    q, k = (x.reshape(*x.shape[:2], -1, stream.size) for x in (stream.q, stream.k))
    if stream.norms is not None:
        q, k = stream.norms.q(q), stream.norms.k(k)
    return q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3)


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
