"""The initial noise of every engine: the normal random stream of torch's CPU generator, in NumPy.

This module defines which numbers a seed gives, on every chip and in both engines; nothing else may generate noise. The
generator is MT19937 (Matsumoto and Nishimura, 1998) seeded with ``init_genrand``; normals come from the Box-Muller
transform. There are two paths, as in torch's CPU kernel:

- 16 numbers or more: one 24-bit uniform each, transformed in blocks of 16 (the first eight give the radii, the last
  eight the angles). If the size is not a multiple of 16, the last 16 numbers are drawn again.
- fewer: one at a time in double precision from 53-bit uniforms. Each transform gives two numbers; the second is kept
  for the next small draw, no matter how many large draws come between.

Logarithm, sine and cosine are computed in double precision and rounded, so that two machines agree wherever their math
libraries are accurate to half a unit in the last place of float32. torch's own vectorised approximations differ from
this by less than 1e-6.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 16
_HALF = _BLOCK // 2
_TWO_PI = np.float32(2.0 * math.pi)
_MASK_24 = np.uint32((1 << 24) - 1)
_MASK_53 = (1 << 53) - 1
_CHUNK_BLOCKS = 1 << 15


class NoiseStream:
    """A stream of standard normals. Successive draws continue where the last one ended.

    :param seed: 0 … 2^64-1; MT19937 uses the low 32 bits, as in torch.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.RandomState(seed & 0xFFFFFFFF)
        self._spare: float | None = None

    def normal(self, shape: tuple[int, ...] | int) -> NDArray[np.float32]:
        """Draw float32 standard normals of ``shape``, in C order.

        Equal to ``torch.randn(shape, generator=g)`` with a CPU generator ``g`` of the same seed and history.
        """
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        count = math.prod(sizes)
        if count < _BLOCK:
            return np.array([self._scalar() for _ in range(count)], dtype=np.float32).reshape(sizes)
        out = np.empty(count, dtype=np.float32)
        whole = count - count % _BLOCK
        uniforms = self._uniforms(count)
        for start in range(0, whole, _CHUNK_BLOCKS * _BLOCK):
            end = min(start + _CHUNK_BLOCKS * _BLOCK, whole)
            out[start:end] = _box_muller(uniforms[start:end])
        if count != whole:
            out[-_BLOCK:] = _box_muller(self._uniforms(_BLOCK))
        return out.reshape(sizes)

    def _words(self, count: int) -> NDArray[np.uint32]:
        """Return ``count`` raw outputs of the generator (over the full range, so that none is rejected)."""
        return self._bits.randint(0, 1 << 32, size=count, dtype=np.uint32)

    def _uniforms(self, count: int) -> NDArray[np.float32]:
        """Return uniforms in [0, 1), multiples of 2^-24, which are exact in float32."""
        return (self._words(count) & _MASK_24).astype(np.float32) * np.float32(2.0**-24)

    def _scalar(self) -> float:
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        high1, low1, high2, low2 = (int(word) for word in self._words(4))
        angle = 2.0 * math.pi * (((high1 << 32 | low1) & _MASK_53) * 2.0**-53)
        radius = math.sqrt(-2.0 * math.log1p(-(((high2 << 32 | low2) & _MASK_53) * 2.0**-53)))
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)


def _box_muller(uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transform blocks of 16 uniforms into blocks of 16 normals, rounding to float32 where torch's kernel does."""
    blocks = uniforms.reshape(-1, 2, _HALF)
    first = np.float32(1.0) - blocks[:, 0]
    logarithm = np.log(first.astype(np.float64)).astype(np.float32)
    radius = np.sqrt(np.float32(-2.0) * logarithm)
    angle = (_TWO_PI * blocks[:, 1]).astype(np.float64)
    out = np.empty_like(blocks)
    out[:, 0] = radius * np.cos(angle).astype(np.float32)
    out[:, 1] = radius * np.sin(angle).astype(np.float32)
    return out.reshape(-1)
