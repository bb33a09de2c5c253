"""Run an autoencoder on a large picture layer by layer, in strips of rows; exact up to rounding.

Each layer is computed strip by strip. A convolution gets one more row on each side (its halo), and a group norm uses
the statistics of the whole picture, which are gathered first. Between layers a feature map is kept in bands, each
released as soon as nothing needs it, so that the peak is about two maps of the largest size, not eight to ten. Cutting
the picture itself into tiles, as is common, needs even less memory but changes the result: each tile then has its own
statistics, so brightness jumps at the seams.

This module defines the order of the work for both engines. Subclasses add what differs: the array layout and the
functions of their library. Blocks are named as in diffusers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A = TypeVar("A")
Layer = Any
"""A callable of the engine's library from a map to a map."""

NUMBERS = 1 << 22
"""Elements per strip: enough to keep the device busy, and few compared to the largest map (2 ** 27 at 1024 x 1024)."""
_FEWEST = 8
"""Minimum number of rows per strip, however wide: each strip computes two more for its halo."""


class Bands(Generic[A]):
    """The rows of a feature map from top to bottom, in bands.

    :param axis: the axis of the rows.
    :param join: concatenates arrays along that axis.
    """

    def __init__(self, axis: int, join: Callable[[list[A]], A]) -> None:
        self._axis, self._join = axis, join
        self._bands: list[tuple[int, A]] = []
        self.height = 0

    def __iter__(self) -> Iterator[A]:
        return (band for _, band in self._bands)

    def add(self, band: A) -> None:
        """Append a band at the bottom."""
        self._bands.append((self.height, band))
        self.height += self.rows_of(band)

    def rows(self, top: int, bottom: int) -> A:
        """Return the rows ``top`` to ``bottom`` (exclusive); none of them may have been released."""
        found: list[A] = []
        for start, band in self._bands:
            end = start + self.rows_of(band)
            if start < bottom and end > top:
                found.append(self.part(band, max(top - start, 0), min(bottom, end) - start))
        return found[0] if len(found) == 1 else self._join(found)

    def release(self, row: int) -> None:
        """Release the bands that are entirely above ``row``."""
        while self._bands and self._bands[0][0] + self.rows_of(self._bands[0][1]) <= row:
            del self._bands[0]

    def part(self, band: Any, top: int, bottom: int) -> Any:
        """Return some rows of one band."""
        if (top, bottom) == (0, self.rows_of(band)):
            return band
        return band[(slice(None),) * self._axis + (slice(top, bottom),)]

    def rows_of(self, band: Any) -> int:
        """Return the number of rows of a band."""
        return band.shape[self._axis]


class Strips(ABC, Generic[A]):
    """The layers of an autoencoder, in strips.

    :param numbers: elements per strip; :data:`NUMBERS` if None.
    """

    rows_axis: int

    def __init__(self, numbers: int | None = None) -> None:
        self._numbers = NUMBERS if numbers is None else numbers

    # --- what differs between engines

    @abstractmethod
    def join(self, arrays: list[A]) -> A:
        """Concatenate maps along their rows."""

    @abstractmethod
    def moments(self, x: A) -> tuple[Any, Any]:
        """Return the mean and variance of each channel of a map, each (B, C) in float32."""

    @abstractmethod
    def stacked(self, values: list[Any]) -> Any:
        """Stack arrays of one shape along a new first axis."""

    @abstractmethod
    def beside(self, values: list[float], array: Any) -> Any:
        """Return numbers as a float32 array on the device of ``array``."""

    @abstractmethod
    def activated(self, x: A, scale: Any, shift: Any) -> A:
        """Return SiLU of ``x * scale + shift`` in the type of ``x``; scale and shift are (B, C) in float32."""

    @abstractmethod
    def groups(self, norm: Layer) -> int:
        """Return the number of channel groups of a norm."""

    def applied(self, layer: Layer, x: A, first: int, end: int, onto: A | None) -> A:
        """Apply a convolution, and return the rows ``first`` to ``end`` (exclusive) of the result, added to ``onto``
        if there is one.
        """
        y: Any = self.bands().part(layer(x), first, end)
        return y if onto is None else onto + y

    def finished(self, x: A) -> A:
        """Called with each finished strip, to evaluate lazy work and to let a job stop."""
        return x

    # --- layers

    def bands(self, *arrays: A) -> Bands[A]:
        """Make a map from one or more bands."""
        made: Bands[A] = Bands(self.rows_axis, self.join)
        for array in arrays:
            made.add(array)
        return made

    def whole(self, x: Bands[A]) -> A:
        """Return the map as one array and release its bands."""
        array = x.rows(0, x.height)
        x.release(x.height)
        return array

    def residual(self, block: Layer, x: Bands[A]) -> Bands[A]:
        """Apply a residual block; consumes ``x``."""
        shortcut = getattr(block, "conv_shortcut", None)
        kept, y = (x if shortcut is None else self.bands()), self.bands()
        before = self._normed(block.norm1, x)
        for top, bottom in self._spans(x):
            y.add(self._convolved(block.conv1, x, top, bottom, before))
            if shortcut is not None:
                kept.add(self.finished(shortcut(x.rows(top, bottom))))
                self._pass(x, bottom)
        made, before = self.bands(), self._normed(block.norm2, y)
        for top, bottom in self._spans(y):
            made.add(self._convolved(block.conv2, y, top, bottom, before, kept))
            kept.release(bottom)
            self._pass(y, bottom)
        return made

    def convolved(self, layer: Layer, x: Bands[A], norm: Layer | None = None) -> Bands[A]:
        """Apply a 3 x 3 convolution with padding, optionally after a norm and SiLU; consumes ``x``."""
        made, before = self.bands(), None if norm is None else self._normed(norm, x)
        after, *taken = layer.weight.shape  # in whatever order the others are, the channels of the result come first
        for top, bottom in self._spans(x, max(1, 9 * after // math.prod(taken))):
            made.add(self._convolved(layer, x, top, bottom, before))
            self._pass(x, bottom)
        return made

    def enlarged(self, layer: Layer, x: Bands[A]) -> Bands[A]:
        """Upsample by two and convolve, both done by ``layer``; consumes ``x``."""
        made = self.bands()
        for top, bottom in self._spans(x, 4):
            above, below = min(1, top), min(1, x.height - bottom)
            y = layer(x.rows(top - above, bottom + below))
            made.add(self.finished(made.part(y, 2 * above, 2 * (above + bottom - top))))
            self._pass(x, bottom)
        return made

    def halved(self, layer: Layer, x: Bands[A]) -> Bands[A]:
        """Apply a 3 x 3 convolution with stride 2, padded right and below by ``layer``; consumes ``x``."""
        made = self.bands()
        for top, bottom in self._spans(x, even=True):
            rows = (min(bottom, x.height) - top) // 2
            if rows:
                y = layer(x.rows(top, min(bottom + 1, x.height)))
                made.add(self.finished(made.part(y, 0, rows)))
            x.release(bottom)
        return made

    # --- parts

    def _pass(self, x: Bands[A], bottom: int) -> None:
        """Release the rows above ``bottom``, except for the last: it is the next strip's halo."""
        x.release(bottom if bottom == x.height else bottom - 1)

    def _convolved(
        self,
        layer: Layer,
        x: Bands[A],
        top: int,
        bottom: int,
        before: Callable[[A], A] | None,
        onto: Bands[A] | None = None,
    ) -> A:
        """Compute some rows of a convolution, optionally added to the same rows of another map.

        Its own padding spoils the outermost rows, so they are cut off, except at the edges of the picture, where it
        belongs.
        """
        above, below = min(1, top), min(1, x.height - bottom)
        window = x.rows(top - above, bottom + below)
        window = window if before is None else before(window)
        base = None if onto is None else onto.rows(top, bottom)
        return self.finished(self.applied(layer, window, above, above + bottom - top, base))

    def _normed(self, norm: Layer, x: Bands[A]) -> Callable[[A], A]:
        """Return a function of rows: a group norm with the statistics of all of ``x``, followed by SiLU."""
        found = [(band, *self.moments(band)) for band in x]
        of_bands: Any = self.stacked([mean for _, mean, _ in found])
        shares = self.beside([x.rows_of(band) / x.height for band, _, _ in found], of_bands)[:, None, None]
        mean = (shares * of_bands).sum(0)
        within: Any = self.stacked([variance for _, _, variance in found])
        variance = (shares * (within + (of_bands - mean) ** 2)).sum(0)
        batch, channels = mean.shape
        shape = (batch, self.groups(norm), -1)
        means = mean.reshape(shape)
        of_group = means.mean(-1)[..., None]
        spread = (variance.reshape(shape) + (means - of_group) ** 2).mean(-1)[..., None]
        scale = self._wide(norm.weight).reshape(shape[1:]) * (spread + norm.eps) ** -0.5
        shift = self._wide(norm.bias).reshape(shape[1:]) - of_group * scale
        scale, shift = scale.reshape(batch, channels), shift.reshape(batch, channels)
        return lambda rows: self.activated(rows, scale, shift)

    @abstractmethod
    def _wide(self, values: Any) -> Any:
        """Convert parameters to float32."""

    def _spans(self, x: Bands[A], times: int = 1, *, even: bool = False) -> Iterator[tuple[int, int]]:
        """Divide ``x`` into strips of rows: (first, one past the last). Releasing bands does not change them.

        :param times: how many times larger the result is.
        :param even: make the number of rows even, except in the last strip.
        """
        first: Any = next(iter(x))
        numbers: int = times * (math.prod(first.shape) // x.rows_of(first))
        rows = max(_FEWEST, self._numbers // numbers)
        rows -= rows % 2 if even else 0
        height = x.height
        return ((top, min(top + rows, height)) for top in range(0, height, rows))
