"""Step caching (``engine/drawing/speeds.py``): what a denoiser answers changes slowly from step to step, so a foretold
step continues the line through the last two computed answers (the first order of TaylorSeer, Liu et al., 2025,
arXiv:2503.06923), and no block runs. The sampler itself takes every step, foretold or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from locara_sidecar.engine.drawing.speeds import SPEEDS

if TYPE_CHECKING:
    from collections.abc import Callable


class Answers:
    """A denoiser's answers in one image; for another image another one is made.

    :param speed: a name of the contract's; ``exact`` computes every step.
    """

    def __init__(self, speed: str) -> None:
        self._pattern = SPEEDS.get(speed)
        self._last: mx.array | None = None
        self._slope: mx.array | None = None
        self._step = 0

    def __call__(self, step: int, compute: Callable[[], mx.array]) -> mx.array:
        """The answer at ``step``, counted from 0 in the image, in float32; ``compute`` gives it where it is computed,
        every row of a batch from its own past."""
        if self._pattern is None:
            return compute()
        if self._last is not None and not self._pattern.computes(step):
            far = step - self._step
            return self._last if self._slope is None else self._last + far * self._slope
        answer = compute()
        if self._last is not None:
            self._slope = (answer - self._last) / (step - self._step)
            mx.async_eval(self._slope)  # now, or the answer before it would stay as well
        self._last, self._step = answer, step
        return answer
