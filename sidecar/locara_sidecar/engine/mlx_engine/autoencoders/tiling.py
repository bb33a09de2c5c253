"""An autoencoder's work on a large picture done tile by tile, so that one tile's work is in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable


def in_tiles(x: mx.array, work: Callable[[mx.array], mx.array], size: int, made: int) -> mx.array:
    """``work`` done on tiles that overlap by a quarter, each result faded into its upper and its left neighbour, as
    diffusers does.

    :param size: of a tile of ``x``, on each side; ``made``: of what ``work`` makes of it.
    """
    overlap = made // 4
    kept = made - overlap
    above: list[mx.array] = []
    rows: list[mx.array] = []
    for top in range(0, x.shape[1], size * 3 // 4):
        row: list[mx.array] = []
        for left in range(0, x.shape[2], size * 3 // 4):
            tile = work(x[:, top : top + size, left : left + size])
            if above:
                tile = _faded(above[len(row)], tile, overlap, axis=1)
            if row:
                tile = _faded(row[-1], tile, overlap, axis=2)
            mx.eval(tile)  # now, not with all others at the end
            row.append(tile)
        rows.append(mx.concatenate([tile[:, :kept, :kept] for tile in row], axis=2))
        above = row
    return mx.concatenate(rows, axis=1)


def _faded(before: mx.array, after: mx.array, extent: int, axis: int) -> mx.array:
    """``after`` with its first ``extent`` rows or columns faded in over the last ones of ``before``."""
    extent = min(before.shape[axis], after.shape[axis], extent)
    ramp = (mx.arange(extent) / extent).astype(after.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
    (old,) = mx.split(before, [before.shape[axis] - extent], axis=axis)[1:]
    start, rest = mx.split(after, [extent], axis=axis)
    return mx.concatenate([old * (1 - ramp) + start * ramp, rest], axis=axis)
