"""Mean and variance of groups of channels, in one pass over a feature map, by two Metal kernels of our own.

MLX computes a group norm by copying the map into a layout group by group, and passing it to a layer norm, which reads
it three times: seven passes over by far the largest array of a decode. The first kernel reads the map once, in place;
the second combines the first one's small output.

Without them, :func:`of` returns None, and the caller uses MLX's own operations (see :mod:`.trials`).
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from locara_sidecar.engine.mlx_engine.kernels.trials import Trials, largest, metal_kernel

_EACH = 4
"""Neighbouring channels per thread of the first kernel; also written in its source."""
_LANES = 256
"""Threads that combine one group; also written in the second kernel's source."""
_THREADS = 1 << 16
"""Target number of threads of the first kernel, enough for any of Apple's GPUs."""
_FEWEST, _MOST = 32, 1024
"""Pixels per thread of the first kernel: more pixels mean less for the second to combine, and fewer threads."""

# Each thread sums, over its pixels, the differences between a channel's numbers and the first of them, and the squares
# of these differences: the numbers themselves may be far from zero, and their squares would then cancel.
_CHUNKS = """
    const uint channel = thread_position_in_grid.x * 4;
    const uint chunk = thread_position_in_grid.y;
    const uint picture = thread_position_in_grid.z;
    const uint pixels = x_shape[1];
    const uint channels = x_shape[2];
    const uint chunks = threads_per_grid.y;
    const uint rows = (pixels + chunks - 1) / chunks;
    const uint first = chunk * rows;
    const uint last = first + rows < pixels ? first + rows : pixels;
    size_t at = (size_t(picture) * pixels + first) * channels + channel;
    float base[4], sum[4], squares[4];
    for (uint i = 0; i < 4; i++) {
        base[i] = float(x[at + i]);
        sum[i] = 0.0f;
        squares[i] = 0.0f;
    }
    for (uint row = first; row < last; row++) {
        for (uint i = 0; i < 4; i++) {
            const float apart = float(x[at + i]) - base[i];
            sum[i] += apart;
            squares[i] += apart * apart;
        }
        at += channels;
    }
    const float count = float(last - first);
    const size_t to = (size_t(picture) * chunks + chunk) * channels + channel;
    for (uint i = 0; i < 4; i++) {
        const float mean = sum[i] / count;
        const float spread = squares[i] - sum[i] * mean;
        means[to + i] = base[i] + mean;
        spreads[to + i] = spread > 0.0f ? spread : 0.0f;
    }
"""

# One threadgroup combines the parts of one group: first their mean, then the spread of the parts and means around it.
_JOINED = """
    threadgroup float shared[256];
    const uint lane = thread_position_in_threadgroup.x;
    const uint group = threadgroup_position_in_grid.x;
    const uint picture = threadgroup_position_in_grid.y;
    const uint groups = threads_per_grid.x / 256;
    const uint chunks = means_shape[1];
    const uint channels = means_shape[2];
    const uint width = channels / groups;
    const uint all = uint(pixels[0]);
    const uint rows = (all + chunks - 1) / chunks;
    const uint parts = chunks * width;
    const size_t from = size_t(picture) * chunks * channels + group * width;
    const float numbers = float(all) * float(width);

    float sum = 0.0f;
    for (uint part = lane; part < parts; part += 256) {
        const uint chunk = part / width;
        const uint left = all - chunk * rows;
        const float count = float(left < rows ? left : rows);
        sum += count * means[from + size_t(chunk) * channels + part % width];
    }
    shared[lane] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint half_way = 128; half_way > 0; half_way /= 2) {
        if (lane < half_way) {
            shared[lane] += shared[lane + half_way];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    const float mean = shared[0] / numbers;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    float spread = 0.0f;
    for (uint part = lane; part < parts; part += 256) {
        const uint chunk = part / width;
        const uint left = all - chunk * rows;
        const float count = float(left < rows ? left : rows);
        const size_t at = from + size_t(chunk) * channels + part % width;
        const float apart = means[at] - mean;
        spread += spreads[at] + count * apart * apart;
    }
    shared[lane] = spread;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint half_way = 128; half_way > 0; half_way /= 2) {
        if (lane < half_way) {
            shared[lane] += shared[lane + half_way];
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (lane == 0) {
        mean_of[picture * groups + group] = mean;
        variance_of[picture * groups + group] = shared[0] / numbers;
    }
"""


class Statistics(NamedTuple):
    """For each group, (B, groups) in float32. The variance is that of the numbers, not an estimate from a sample."""

    mean: mx.array
    variance: mx.array


class _Trial(NamedTuple):
    shape: tuple[int, ...]
    groups: int


_TRIALS = (
    _Trial((1, 37, 41, 128), 32),  # the last chunk has fewer pixels than the others
    _Trial((2, 16, 9, 64), 4),
    _Trial((1, 7, 3, 40), 40),
    _Trial((1, 128, 128, 512), 32),
)
_FAR = 1e-3
"""Difference from MLX's own results, relative to mean or variance, from which on the kernels are not used."""


def of(x: mx.array, groups: int) -> Statistics | None:
    """Return the statistics of ``x`` (B, …, C), whose C channels are ``groups`` groups of neighbours.

    None if this process has not found that its device computes them correctly for that type, or for shapes that the
    kernels do not support.
    """
    if x.dtype not in _trials or x.shape[-1] % _EACH or x.size < _LANES:
        return None
    return _computed(x, groups)


def try_out(device: str, dtype: mx.Dtype) -> bool:
    """Return whether the kernels are used for maps of this type from now on; see :meth:`.Trials.try_out`."""
    return _trials.try_out(device, dtype)


def trust(dtype: mx.Dtype) -> None:
    """Use the kernels for maps of this type from now on, untried."""
    _trials.trust(dtype)


def _difference(dtype: mx.Dtype) -> float:
    return max(_difference_in(trial, dtype) for trial in _TRIALS)


def _difference_in(trial: _Trial, dtype: mx.Dtype) -> float:
    """Return the largest relative difference of the kernels' results from MLX's; infinity if one is not a number."""
    x = (3.0 + 0.5 * mx.random.normal(trial.shape, key=mx.random.key(trial.groups))).astype(dtype)
    ours = _computed(x, trial.groups)
    wide = x.astype(mx.float32).reshape(x.shape[0], -1, trial.groups, x.shape[-1] // trial.groups)
    theirs = wide.mean(axis=(1, 3)), wide.var(axis=(1, 3))
    return largest([mx.abs(a - b) / mx.abs(b) for a, b in zip(ours, theirs, strict=True)])


def _computed(x: mx.array, groups: int) -> Statistics:
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    batch, pixels, channels = x.shape
    wide = channels // _EACH
    chunks = -(-pixels // min(max(pixels * wide // _THREADS, _FEWEST), _MOST))
    across = min(wide, 128)
    means, spreads = metal_kernel("group_chunks", ("x",), ("means", "spreads"), _CHUNKS)(
        inputs=[x],
        template=[("T", x.dtype)],
        grid=(wide, chunks, batch),
        threadgroup=(across, max(1, _LANES // across), 1),
        output_shapes=[(batch, chunks, channels)] * 2,
        output_dtypes=[mx.float32] * 2,
    )
    mean, variance = metal_kernel("group_joined", ("means", "spreads", "pixels"), ("mean_of", "variance_of"), _JOINED)(
        inputs=[means, spreads, mx.array([pixels], dtype=mx.int32)],
        grid=(_LANES * groups, batch, 1),
        threadgroup=(_LANES, 1, 1),
        output_shapes=[(batch, groups)] * 2,
        output_dtypes=[mx.float32] * 2,
    )
    return Statistics(mean, variance)


_trials = Trials("group norms", _difference, _FAR)
