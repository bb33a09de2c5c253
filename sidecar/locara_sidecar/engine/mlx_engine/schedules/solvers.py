"""Solvers for models with scaled noise (SDXL): three of diffusers' schedulers.

A latent of level sigma is ``x0 + sigma * noise`` (Karras et al., 2022, arXiv:2206.00364); :class:`Multistep` keeps it
divided by ``sqrt(sigma^2 + 1)``, which is also the model's input. The model predicts the noise (``epsilon``), the clean
latent (``sample``), or a mixture of both (``v_prediction``, Salimans and Ho, 2022, arXiv:2202.00512). Each step
converts that to x0 and continues from there.

Coefficients are computed in float32 as in diffusers, in NumPy; latents may be arrays of any kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from locara_sidecar.engine.folder.schedulers import AncestralConfig, EulerConfig, MultistepConfig
from locara_sidecar.engine.mlx_engine.schedules.noise_levels import levels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from locara_sidecar.engine.folder.schedulers import NoiseConfig

    Draw = Callable[[], Any]

_ONE = np.float32(1)
_FEW = 15
"""With fewer steps than this, the last ones use a lower order, if the configuration says so."""


class Solver(ABC):
    """The steps of one picture. Call :meth:`step` once for each of them, in order.

    :ivar sigmas: the levels, (steps + 1,).
    :ivar timesteps: what the model gets, (steps,).
    :param draw: returns noise like the latent; solvers that add noise call it once a step, in diffusers' order.
    """

    def __init__(self, config: NoiseConfig, steps: int, draw: Draw) -> None:
        self._config = config
        self._draw = draw
        self.sigmas, self.timesteps = levels(config, steps)
        self._all = len(self.timesteps)
        self.initial = self._initial()
        """Factor of the noise if a picture starts from noise alone."""

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def after(self, first: int) -> Self:
        """Remove the first ``first`` steps, leaving what remains for an edit. Call this before any step."""
        self.sigmas, self.timesteps = self.sigmas[first:], self.timesteps[first:]
        return self

    @abstractmethod
    def _initial(self) -> float: ...

    @abstractmethod
    def seen(self, latent: Any, step: int) -> Any:
        """Scale the latent to the model's input at step ``step``, from 0."""

    @abstractmethod
    def noised(self, clean: Any, noise: Any, sigma: float) -> Any:
        """Return the latent of level ``sigma``."""

    @abstractmethod
    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        """Return the latent after step ``step``, from 0, and x0, the clean latent that the step predicts."""

    def _share(self, sigma: np.float32) -> np.float32:
        """Return the picture's share in a latent of that level, if the squares of both shares sum to 1."""
        return _ONE / np.sqrt(sigma * sigma + _ONE)


class Euler(Solver):
    """A straight line towards x0 (EulerDiscreteScheduler)."""

    _config: EulerConfig | AncestralConfig

    def _initial(self) -> float:
        highest = self.sigmas.max()
        if self._config.timestep_spacing == "leading":  # it does not begin at the highest level
            return float(np.sqrt(highest * highest + _ONE))
        return float(highest)

    def seen(self, latent: Any, step: int) -> Any:
        return latent * float(self._share(self.sigmas[step]))

    def noised(self, clean: Any, noise: Any, sigma: float) -> Any:
        return clean + sigma * noise

    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        x0 = self._clean(latent, answer, self.sigmas[step])
        return self._towards(latent, x0, self.sigmas[step], self.sigmas[step + 1]), x0

    def _towards(self, latent: Any, x0: Any, sigma: np.float32, target: np.float32) -> Any:
        return latent + ((latent - x0) / float(sigma)) * float(target - sigma)

    def _clean(self, latent: Any, answer: Any, sigma: np.float32) -> Any:
        match self._config.prediction_type:
            case "epsilon":
                return latent - float(sigma) * answer
            case "v_prediction":
                square = sigma * sigma + _ONE
                return answer * float(-sigma / np.sqrt(square)) + latent / float(square)
            case _:
                return answer


class EulerAncestral(Euler):
    """Steps below the next level and adds noise to get back to it (EulerAncestralDiscreteScheduler)."""

    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        sigma, target = self.sigmas[step], self.sigmas[step + 1]
        x0 = self._clean(latent, answer, sigma)
        up = np.sqrt(target**2 * (sigma**2 - target**2) / sigma**2)
        down = np.sqrt(np.maximum(target**2 - up**2, 0))  # may round below 0 next to levels of many thousands
        return self._towards(latent, x0, sigma, down) + self._draw() * float(up), x0


class Multistep(Solver):
    """DPM-Solver++ (Lu et al., 2022, arXiv:2211.01095), as in DPMSolverMultistepScheduler.

    A step also uses the clean latents of the last steps; its stochastic variant draws noise. ``lambda`` is the
    logarithm of the ratio of picture to noise; ``h`` is its increase in a step.
    """

    _config: MultistepConfig

    def __init__(self, config: NoiseConfig, steps: int, draw: Draw) -> None:
        super().__init__(config, steps, draw)
        self._cleans: list[Any] = []

    def _initial(self) -> float:
        return 1.0

    def seen(self, latent: Any, step: int) -> Any:
        del step
        return latent

    def noised(self, clean: Any, noise: Any, sigma: float) -> Any:
        share = self._share(np.float32(sigma))
        return float(share) * clean + float(np.float32(sigma) * share) * noise

    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        x0 = self._clean(latent, answer, self.sigmas[step])
        self._cleans = [*self._cleans, x0][-self._config.solver_order :]
        noise = self._draw() if self._config.stochastic else None
        return self._moved(latent, step, noise, self._order(step)), x0

    def _order(self, step: int) -> int:
        """Return the order of a step: how many clean latents it uses."""
        config, last = self._config, self.steps - 1
        careful = config.lower_order_final and self._all < _FEW
        if step == last and (config.euler_at_final or careful or config.final_sigmas_type == "zero"):
            return 1
        return min(len(self._cleans), 2 if step == last - 1 and careful else 3)

    def _clean(self, latent: Any, answer: Any, sigma: np.float32) -> Any:
        share = self._share(sigma)
        match self._config.prediction_type:
            case "epsilon":
                return (latent - float(sigma * share) * answer) / float(share)
            case "v_prediction":
                return float(share) * latent - float(sigma * share) * answer
            case _:
                return answer

    def _moved(self, latent: Any, step: int, noise: Any, order: int) -> Any:
        """Return the next latent: the weighted sum of the latent, x0, its first and second differences, and noise."""
        shares = [self._share(sigma) for sigma in self.sigmas]
        noises = [sigma * share for sigma, share in zip(self.sigmas, shares, strict=True)]
        with np.errstate(divide="ignore"):  # no noise at the end, so lambda is infinite
            ratios = np.log(np.array(shares)) - np.log(np.array(noises))
        h = ratios[step + 1] - ratios[step]
        target, twice = shares[step + 1], np.float32(2) * h
        kept = noises[step + 1] / noises[step]
        gone = np.exp(-twice) if self._config.stochastic else np.exp(-h)
        if self._config.stochastic:
            kept = kept * np.exp(-h)
        x0 = self._cleans[-1]
        moved = float(kept) * latent + float(target * (_ONE - gone)) * x0
        if order > 1:
            moved = moved + self._differences(ratios, step, order, target, twice if self._config.stochastic else h)
        if noise is not None:
            moved = moved + float(noises[step + 1] * np.sqrt(_ONE - np.exp(-twice))) * noise
        return moved

    def _differences(
        self, ratios: NDArray[np.float32], step: int, order: int, target: np.float32, length: np.float32
    ) -> Any:
        """Return the contribution of earlier clean latents; ``length`` is h, or 2 h for the stochastic variant."""
        h = ratios[step + 1] - ratios[step]
        gone = np.exp(-length)
        near = (ratios[step] - ratios[step - 1]) / h
        first = float(_ONE / near) * (self._cleans[-1] - self._cleans[-2])
        if order == 2:
            if self._config.heun:
                return float(target * ((gone - _ONE) / length + _ONE)) * first
            return float(np.float32(0.5) * target * (_ONE - gone)) * first
        far = (ratios[step - 1] - ratios[step - 2]) / h
        before = float(_ONE / far) * (self._cleans[-2] - self._cleans[-3])
        second = float(_ONE / (near + far)) * (first - before)
        first = first + float(near / (near + far)) * (first - before)
        half = np.float32(-0.5 if self._config.stochastic else 0.5)  # diffusers' sign, unlike the paper's
        bend = target * ((gone - _ONE + length) / length**2 - half)
        return float(target * ((gone - _ONE) / length + _ONE)) * first - float(bend) * second


def make(config: NoiseConfig, steps: int, draw: Draw) -> Solver:
    """Create the solver for a scheduler's configuration and number of steps."""
    kinds: dict[type[NoiseConfig], type[Solver]] = {
        EulerConfig: Euler,
        AncestralConfig: EulerAncestral,
        MultistepConfig: Multistep,
    }
    return kinds[type(config)](config, steps, draw)
