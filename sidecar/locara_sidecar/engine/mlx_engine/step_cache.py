"""Step caching (``engine/drawing/speeds.py``): some steps are predicted instead of computed.

A denoiser's output changes slowly from step to step, so a predicted step extrapolates linearly from the last two
computed outputs and runs no block (TaylorSeer of first order, Liu et al., 2025, arXiv:2503.06923). The sampler itself
runs every step, predicted or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from locara_sidecar.engine.drawing.speeds import SPEEDS

if TYPE_CHECKING:
    from collections.abc import Callable


class Answers:
    """A denoiser's outputs for one image. Create a new one for each image.

    :param speed: one of the protocol's names; ``exact`` computes every step.
    """

    def __init__(self, speed: str) -> None:
        self._pattern = SPEEDS.get(speed)
        self._last: mx.array | None = None
        self._slope: mx.array | None = None
        self._step = 0

    def __call__(self, step: int, compute: Callable[[], mx.array]) -> mx.array:
        """Return the output at ``step``, counted from 0 in the image, in float32.

        ``compute`` computes it if it is not predicted. Each row of a batch is predicted from its own history.
        """
        if self._pattern is None:
            return compute()
        if self._last is not None and not self._pattern.computes(step):
            far = step - self._step
            return self._last if self._slope is None else self._last + far * self._slope
        answer = compute()
        if self._last is not None:
            self._slope = (answer - self._last) / (step - self._step)
            mx.async_eval(self._slope)  # now, so that the previous output is freed
        self._last, self._step = answer, step
        return answer
