"""By how much each pair of a token's queries and keys is rotated: cosines and sines, by axis or in one table.

A pair belongs to one axis, such as row or column, and its angle is the token's position on that axis times the pair's
frequency. A picture has few positions on an axis, 64 at 1024 x 1024, and 4096 tokens. So cosines and sines are kept
once per position (:class:`ByAxis`), and our kernel looks them up. MLX's own operations need them for every token
(:meth:`ByAxis.table`): for FLUX at that size 2.4 MB, read in every block, instead of 15 KB and 55 KB of positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class ByAxis(NamedTuple):
    """Cosines and sines of each position on each axis, and where those of a token's pair are found.

    They are in row ``starts[token, axis] + column`` of ``cos_sin``, where ``columns[pair]`` is (axis, column).
    """

    cos_sin: mx.array
    """Cosine and sine, (entries, 2) in float32. Axes of the same size have the same frequencies and share entries."""
    starts: mx.array
    """(tokens, axes) in uint32."""
    columns: mx.array
    """(head size / 2, 2) in uint32."""

    def table(self) -> mx.array:
        """Return cosine and sine for every token and pair, (tokens, head size / 2, 2) in float32."""
        return self.cos_sin[self.starts[:, self.columns[:, 0]] + self.columns[:, 1]]

    def first(self, tokens: int) -> ByAxis:
        """Return the rotation of the first tokens only."""
        return self._replace(starts=self.starts[:tokens])


def by_axis(places: NDArray[Any], sizes: Sequence[int], base: float, *, rounded: bool = False) -> ByAxis:
    """Compute the rotation of tokens at ``places`` (tokens, axes).

    :param sizes: how many numbers of a head belong to each axis, all even.
    :param base: the base of the frequencies, which are its powers.
    :param rounded: round angles to float32 before taking their sines, as some models were trained.
    """
    starts = np.zeros(places.shape, dtype=np.uint32)
    tables: list[NDArray[Any]] = []
    entries = 0
    for size in dict.fromkeys(sizes):
        axes = [axis for axis, other in enumerate(sizes) if other == size]
        positions, rows = np.unique(places[:, axes], return_inverse=True)
        angles: NDArray[Any] = positions[:, None] * base ** (-np.arange(0, size, 2) / size)
        angles = angles.astype(np.float32).astype(np.float64) if rounded else angles
        tables.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32).reshape(-1, 2))
        starts[:, axes] = entries + rows.reshape(-1, len(axes)) * (size // 2)
        entries += angles.size
    columns = [(axis, column) for axis, size in enumerate(sizes) for column in range(size // 2)]
    return ByAxis(mx.array(np.concatenate(tables)), mx.array(starts), mx.array(np.array(columns, dtype=np.uint32)))


def by_nothing(tokens: int, size: int) -> ByAxis:
    """Return the rotation that changes no number, for heads of ``size``.

    Its entry is there four times: MLX gives a kernel arrays of fewer than eight numbers in Metal's constant memory, and
    so compiles it once more, untried.
    """
    starts, columns = np.zeros((tokens, 1), dtype=np.uint32), np.zeros((size // 2, 2), dtype=np.uint32)
    return ByAxis(mx.array([[1.0, 0.0]] * 4), mx.array(starts), mx.array(columns))
