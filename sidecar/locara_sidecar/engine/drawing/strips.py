"""An autoencoder's work on a large picture, layer by layer in strips of rows, equal to the whole work up to rounding.

A layer is done strip by strip: a convolution is given one row more on each side (its halo), and a norm over groups of
channels has the statistics of the whole picture, which are gathered first. Between layers a map is kept in bands, and
each band goes as soon as nothing needs it, so that at the height about two maps of the largest size are in memory, not
eight to ten. Cutting the picture itself into tiles, as is common, holds less still but changes it: each tile then has
statistics of its own, so brightness jumps between them.

Owned here: the order of the work, for both engines; a subclass has what differs, the layout of arrays and the
functions of its library. Blocks are named as in diffusers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A = TypeVar("A")
Layer = Any
"""A callable of the engine's library that takes a map and gives one."""

NUMBERS = 1 << 22
"""Numbers of a strip: enough for the device to be busy, and few beside a map of the largest size (2 ** 27 at 1024 x
1024)."""
_FEWEST = 8
"""Rows of a strip, however wide: each computes two more for its halo."""


class Bands(Generic[A]):
    """The rows of a map from the top down, in bands.

    :param axis: of the rows.
    :param join: puts arrays together along that axis.
    """

    def __init__(self, axis: int, join: Callable[[list[A]], A]) -> None:
        self._axis, self._join = axis, join
        self._bands: list[tuple[int, A]] = []
        self.height = 0

    def __iter__(self) -> Iterator[A]:
        return (band for _, band in self._bands)

    def add(self, band: A) -> None:
        """Below those that are there."""
        self._bands.append((self.height, band))
        self.height += self.rows_of(band)

    def rows(self, top: int, bottom: int) -> A:
        """Rows from ``top`` up to before ``bottom``; none of them may have been released."""
        found: list[A] = []
        for start, band in self._bands:
            end = start + self.rows_of(band)
            if start < bottom and end > top:
                found.append(self.part(band, max(top - start, 0), min(bottom, end) - start))
        return found[0] if len(found) == 1 else self._join(found)

    def release(self, row: int) -> None:
        """Nothing above ``row`` is needed any more."""
        while self._bands and self._bands[0][0] + self.rows_of(self._bands[0][1]) <= row:
            del self._bands[0]

    def part(self, band: Any, top: int, bottom: int) -> Any:
        """Some rows of one band."""
        if (top, bottom) == (0, self.rows_of(band)):
            return band
        return band[(slice(None),) * self._axis + (slice(top, bottom),)]

    def rows_of(self, band: Any) -> int:
        """How many rows a band has."""
        return band.shape[self._axis]


class Strips(ABC, Generic[A]):
    """The layers of an autoencoder in strips.

    :param numbers: of a strip; :data:`NUMBERS` if None.
    """

    rows_axis: int

    def __init__(self, numbers: int | None = None) -> None:
        self._numbers = NUMBERS if numbers is None else numbers

    # --- what differs between engines

    @abstractmethod
    def join(self, arrays: list[A]) -> A:
        """Put maps together along their rows."""

    @abstractmethod
    def moments(self, x: A) -> tuple[Any, Any]:
        """Mean and variance of each channel of a map, each (B, C) in float32."""

    @abstractmethod
    def stacked(self, values: list[Any]) -> Any:
        """Arrays of one shape along a new first axis."""

    @abstractmethod
    def beside(self, values: list[float], array: Any) -> Any:
        """Numbers as an array of float32 where ``array`` is."""

    @abstractmethod
    def activated(self, x: A, scale: Any, shift: Any) -> A:
        """SiLU of ``x * scale + shift``; both (B, C) in float32. In the type of ``x``."""

    @abstractmethod
    def groups(self, norm: Layer) -> int:
        """How many groups of channels a norm has."""

    def finished(self, x: A) -> A:
        """Called with each strip that was made: where lazy work is done, and where a job may stop."""
        return x

    # --- layers

    def bands(self, *arrays: A) -> Bands[A]:
        """A map of one band or of several."""
        made: Bands[A] = Bands(self.rows_axis, self.join)
        for array in arrays:
            made.add(array)
        return made

    def whole(self, x: Bands[A]) -> A:
        """All of it as one array; its bands are gone then."""
        array = x.rows(0, x.height)
        x.release(x.height)
        return array

    def residual(self, block: Layer, x: Bands[A]) -> Bands[A]:
        """A residual block; ``x`` is used up."""
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
            branch: Any = self._convolved(block.conv2, y, top, bottom, before)
            made.add(self.finished(kept.rows(top, bottom) + branch))
            del branch
            kept.release(bottom)
            self._pass(y, bottom)
        return made

    def convolved(self, layer: Layer, x: Bands[A], norm: Layer | None = None) -> Bands[A]:
        """A 3 x 3 convolution with padding, perhaps behind a norm and SiLU; ``x`` is used up."""
        made, before = self.bands(), None if norm is None else self._normed(norm, x)
        for top, bottom in self._spans(x):
            made.add(self._convolved(layer, x, top, bottom, before))
            self._pass(x, bottom)
        return made

    def enlarged(self, layer: Layer, x: Bands[A]) -> Bands[A]:
        """Each pixel doubled on both sides and then convolved, both by ``layer``; ``x`` is used up."""
        made = self.bands()
        for top, bottom in self._spans(x, 4):
            above, below = min(1, top), min(1, x.height - bottom)
            y = layer(x.rows(top - above, bottom + below))
            made.add(self.finished(made.part(y, 2 * above, 2 * (above + bottom - top))))
            self._pass(x, bottom)
        return made

    def halved(self, layer: Layer, x: Bands[A]) -> Bands[A]:
        """A 3 x 3 convolution at every second pixel, padded right and below by ``layer``; ``x`` is used up."""
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
        """The rows above ``bottom`` are done; the last of them is the next strip's halo."""
        x.release(bottom if bottom == x.height else bottom - 1)

    def _convolved(self, layer: Layer, x: Bands[A], top: int, bottom: int, before: Callable[[A], A] | None) -> A:
        """Some rows of a convolution. Its own padding spoils the outermost rows, which are cut off, except at the
        edges of the picture, where it belongs."""
        above, below = min(1, top), min(1, x.height - bottom)
        window = x.rows(top - above, bottom + below)
        y = layer(window if before is None else before(window))
        return self.finished(x.part(y, above, above + bottom - top))

    def _normed(self, norm: Layer, x: Bands[A]) -> Callable[[A], A]:
        """A norm over groups of channels with the statistics of all of ``x``, and SiLU: a function of rows."""
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
        """Parameters in float32."""

    def _spans(self, x: Bands[A], times: int = 1, *, even: bool = False) -> Iterator[tuple[int, int]]:
        """Strips of ``x``, from the first row to behind the last. The numbers of rows are fixed before any band goes.

        :param times: how much larger the result is.
        :param even: of an even number of rows each, except the last one.
        """
        first: Any = next(iter(x))
        numbers: int = times * (math.prod(first.shape) // x.rows_of(first))
        rows = max(_FEWEST, self._numbers // numbers)
        rows -= rows % 2 if even else 0
        height = x.height
        return ((top, min(top + rows, height)) for top in range(0, height, rows))
