"""Queries and keys, normed head by head and rotated by their positions, by one Metal kernel of our own.

MLX norms queries and keys with separate kernels, for text and picture separately, concatenates text and picture, and
rotates queries and keys with separate kernels: each number is read and written three to four times. This kernel reads
the layers' outputs, of one stream or two, and writes the result where attention reads it. One launch handles both
queries and keys, and cosines and sines are looked up by the token's position on each axis
(:mod:`~locara_sidecar.engine.mlx_engine.rotation`): a table for all tokens would be the only large array in float32.

A simdgroup of 32 threads handles the query and the key of one head of one token. Intermediate results are not rounded
to the arrays' type, so results differ from MLX's own in the last digit, and are closer to the exact ones.

Without the kernel, :func:`of` returns None, and the caller uses MLX's own operations (see :mod:`.trials`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import numpy as np

from locara_sidecar.engine.mlx_engine.kernels.trials import Trials, largest, metal_kernel
from locara_sidecar.engine.mlx_engine.rotation import ByAxis, by_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

_LANES = 32
"""Threads of a simdgroup; also written in the source."""
_TOGETHER = 8
"""Heads of a token in one threadgroup, which share its cosines and sines in the cache."""

# T, SIZE: the element type, and the size of a head. Tokens of the first stream come first in the result. With a single
# stream, both names stand for the same arrays, and the second name is never read.
_SOURCE = """
    constexpr uint pairs = SIZE / 2;
    constexpr uint each = (pairs + 31) / 32;
    const uint lane = thread_position_in_threadgroup.x;
    const uint head = thread_position_in_grid.y;
    const uint heads = threads_per_grid.y;
    const uint tokens = starts_shape[0];
    const uint axes = starts_shape[1];
    const uint firsts = q_first_shape[1];
    const uint token = thread_position_in_grid.z % tokens;
    const uint picture = thread_position_in_grid.z / tokens;
    const bool first = token < firsts;
    const size_t before = first ? size_t(picture) * firsts : size_t(picture) * (tokens - firsts);
    const size_t from = ((before + (first ? token : token - firsts)) * heads + head) * SIZE;
    const size_t to = ((size_t(picture) * heads + head) * tokens + token) * SIZE;

    float cosines[each] = {};
    float sines[each] = {};
    for (uint i = 0; i < each; i++) {
        const uint pair = lane * each + i;
        if (pair < pairs) {
            const uint entry = starts[token * axes + columns[2 * pair]] + columns[2 * pair + 1];
            cosines[i] = cos_sin[2 * entry];
            sines[i] = cos_sin[2 * entry + 1];
        }
    }
    for (uint which = 0; which < 2; which++) {
        const device T* x = which == 0 ? (first ? q_first : q_second) : (first ? k_first : k_second);
        const device T* weight =
            which == 0 ? (first ? by_q_first : by_q_second) : (first ? by_k_first : by_k_second);
        device T* y = which == 0 ? queries : keys;
        float a[each] = {};
        float b[each] = {};
        float squares = 0.0f;
        for (uint i = 0; i < each; i++) {
            const uint pair = lane * each + i;
            if (pair < pairs) {
                a[i] = float(x[from + 2 * pair]);
                b[i] = float(x[from + 2 * pair + 1]);
                squares += a[i] * a[i] + b[i] * b[i];
            }
        }
        const float scale = metal::precise::rsqrt(simd_sum(squares) / float(SIZE) + epsilon[0]);
        for (uint i = 0; i < each; i++) {
            const uint pair = lane * each + i;
            if (pair < pairs) {
                const float c = float(weight[2 * pair]) * (a[i] * scale);
                const float d = float(weight[2 * pair + 1]) * (b[i] * scale);
                y[to + 2 * pair] = T(c * cosines[i] - d * sines[i]);
                y[to + 2 * pair + 1] = T(d * cosines[i] + c * sines[i]);
            }
        }
    }
"""
_GIVEN = (
    *("q_first", "k_first", "by_q_first", "by_k_first", "q_second", "k_second", "by_q_second", "by_k_second"),
    *("cos_sin", "starts", "columns", "epsilon"),
)


class Use(NamedTuple):
    """What the kernel is compiled and tried for: the element type, the number of heads, and the size of a head."""

    dtype: mx.Dtype
    heads: int
    size: int


class Stream(NamedTuple):
    """Queries and keys of one stream, (B, tokens, heads x size) as their layers output them, and the weights of their
    norms, (size,).
    """

    q: mx.array
    k: mx.array
    weight_q: mx.array
    weight_k: mx.array


def of(streams: Sequence[Stream], rotation: ByAxis, epsilon: float) -> tuple[mx.array, mx.array] | None:
    """Return queries and keys (B, heads, tokens, size) of one or two streams, normed and rotated.

    None if this process has not found that its device computes them correctly for such heads, or if types are mixed.

    :param rotation: of all tokens, first the first stream's.
    :param epsilon: of all norms.
    :raises ValueError: if streams and rotation do not fit together. Metal would read beyond their ends.
    """
    size = streams[0].weight_q.shape[0]
    tokens, batches = sum(stream.q.shape[1] for stream in streams), {stream.q.shape[0] for stream in streams}
    if tokens != rotation.starts.shape[0] or len(batches) != 1:
        raise ValueError(f"{tokens} tokens, {len(batches)} sizes of batch, {rotation.starts.shape[0]} rotations")
    use = Use(streams[0].q.dtype, streams[0].q.shape[-1] // size, size)
    if use not in _trials or any(value.dtype != use.dtype for stream in streams for value in stream):
        return None
    return _computed(use, streams, rotation, epsilon)


def is_used(use: Use) -> bool:
    """Whether the kernel is used for such heads."""
    return use in _trials


def try_out(device: str, use: Use) -> bool:
    """Return whether the kernel is used for such heads from now on; see :meth:`.Trials.try_out`."""
    return _trials.try_out(device, use)


def trust(use: Use) -> None:
    """Use the kernel for such heads from now on, untried."""
    _trials.trust(use)


def _computed(use: Use, streams: Sequence[Stream], rotation: ByAxis, epsilon: float) -> tuple[mx.array, mx.array]:
    first, second = streams[0], streams[-1]
    batch, tokens = first.q.shape[0], rotation.starts.shape[0]
    queries, keys = metal_kernel("rotated_heads", _GIVEN, ("queries", "keys"), _SOURCE)(
        inputs=[*first, *second, *rotation, mx.array([epsilon], dtype=mx.float32)],
        template=[("T", use.dtype), ("SIZE", use.size)],
        grid=(_LANES, use.heads, batch * tokens),
        threadgroup=(_LANES, min(use.heads, _TOGETHER), 1),
        output_shapes=[(batch, use.heads, tokens, use.size)] * 2,
        output_dtypes=[use.dtype] * 2,
    )
    return queries, keys


class _Trial(NamedTuple):
    batch: int
    tokens: tuple[int, ...]
    """Of each stream."""
    epsilon: float


_TRIALS = (_Trial(2, (5, 12), 1e-6), _Trial(1, (35,), 1e-5))


def _difference(use: Use) -> float:
    return max(_difference_in(trial, use) for trial in _TRIALS)


def _difference_in(trial: _Trial, use: Use) -> float:
    """Return the largest difference of the kernel's results from MLX's in float32, relative to one rounding error."""
    keys = iter(mx.random.split(mx.random.key(trial.batch), 20))

    def drawn(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=next(keys))

    def projected(tokens: int) -> mx.array:
        # some tokens are so small that epsilon matters
        return (drawn(trial.batch, tokens, use.heads * use.size) * mx.exp(2 * drawn(tokens, 1) - 4)).astype(use.dtype)

    def weight() -> mx.array:
        return (1 + 0.2 * drawn(use.size)).astype(use.dtype)

    streams = [Stream(projected(count), projected(count), weight(), weight()) for count in trial.tokens]
    rotation = _rotation(sum(trial.tokens), use.size)
    ours = _computed(use, streams, rotation, trial.epsilon)
    theirs = (
        _plain([(stream.q, stream.weight_q) for stream in streams], rotation.table(), trial.epsilon),
        _plain([(stream.k, stream.weight_k) for stream in streams], rotation.table(), trial.epsilon),
    )
    rounded = mx.finfo(use.dtype).eps / 2 + _EXACT
    pairs = zip(ours, theirs, strict=True)
    return largest([mx.abs(a.astype(mx.float32) - b) / (mx.abs(b) + 1) / rounded for a, b in pairs])


def _rotation(tokens: int, size: int) -> ByAxis:
    """Return a rotation on three axes of at least two sizes, at 100 positions, with frequencies of a half to 1."""
    pairs = size // 2
    first = pairs // 4
    second = (pairs - first) // 2
    places = np.random.default_rng(size).integers(0, 100, (tokens, 3))
    return by_axis(places, [2 * part for part in (first, second, pairs - first - second)], 2.0)


def _plain(parts: Sequence[tuple[mx.array, mx.array]], table: mx.array, epsilon: float) -> mx.array:
    """Compute the same with MLX's own operations, in float32.

    :param parts: each stream's numbers and their norm's weight.
    :param table: see :meth:`.ByAxis.table`.
    """
    normed: list[mx.array] = []
    for x, weight in parts:
        heads = x.astype(mx.float32).reshape(*x.shape[:2], -1, weight.shape[0])
        normed.append(mx.fast.rms_norm(heads, weight.astype(mx.float32), epsilon))
    x = mx.concatenate(normed, axis=1)
    a, b, cos, sin = x[..., ::2], x[..., 1::2], table[:, None, :, 0], table[:, None, :, 1]
    y = mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
    return y.transpose(0, 2, 1, 3)


_EXACT = 1e-5
"""How much two orders of the same float32 sum may differ, for numbers around 1."""
_trials = Trials("queries and keys", _difference, 1.0)
