"""The way back from scaled noise (SDXL) to a picture, step by step: three of diffusers' schedulers.

A latent of level sigma is ``x0 + sigma * noise`` (Karras et al., 2022, arXiv:2206.00364), which
:class:`Multistep` keeps divided by ``sqrt(sigma^2 + 1)``. A model sees it divided so; what it gives is the noise
(``epsilon``), the clean latent (``sample``), or ``v_prediction``, a mixture of both (Salimans and Ho, 2022,
arXiv:2202.00512). Each step turns that into x0 and goes on from there.

Coefficients are computed in float32 as diffusers does, in NumPy; latents may be arrays of any kind.
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
"""With fewer steps than this the last ones are taken at a lower order, if the configuration says so."""


class Solver(ABC):
    """The steps of one picture. :meth:`step` is called for each of them once and in order.

    :ivar sigmas: the levels, (steps + 1,).
    :ivar timesteps: what the model is told, (steps,).
    :param draw: gives noise like the latent; called once a step by solvers that add noise, in diffusers' order.
    """

    def __init__(self, config: NoiseConfig, steps: int, draw: Draw) -> None:
        self._config = config
        self._draw = draw
        self.sigmas, self.timesteps = levels(config, steps)
        self._all = len(self.timesteps)
        self.initial = self._initial()
        """What noise is multiplied by where a picture begins from nothing else."""

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def after(self, first: int) -> Self:
        """The same without its first ``first`` steps: what an edit has left to do. Before any step is taken."""
        self.sigmas, self.timesteps = self.sigmas[first:], self.timesteps[first:]
        return self

    @abstractmethod
    def _initial(self) -> float: ...

    @abstractmethod
    def seen(self, latent: Any, step: int) -> Any:
        """The latent as the model sees it at step ``step``, from 0."""

    @abstractmethod
    def noised(self, clean: Any, noise: Any, sigma: float) -> Any:
        """The latent of level ``sigma``."""

    @abstractmethod
    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        """The latent after step ``step``, from 0, and x0, the clean latent that the step predicts."""

    def _share(self, sigma: np.float32) -> np.float32:
        """What of the picture is in a latent of that level, if both shares' squares make 1."""
        return _ONE / np.sqrt(sigma * sigma + _ONE)


class Euler(Solver):
    """A straight line towards x0 (EulerDiscreteScheduler)."""

    _config: EulerConfig | AncestralConfig

    def _initial(self) -> float:
        highest = self.sigmas.max()
        if self._config.timestep_spacing == "leading":  # which does not begin at the highest level
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
    """A step below the next level, and noise back up to it (EulerAncestralDiscreteScheduler)."""

    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        sigma, target = self.sigmas[step], self.sigmas[step + 1]
        x0 = self._clean(latent, answer, sigma)
        up = np.sqrt(target**2 * (sigma**2 - target**2) / sigma**2)
        down = np.sqrt(np.maximum(target**2 - up**2, 0))  # rounded below 0 next to levels of many thousands
        return self._towards(latent, x0, sigma, down) + self._draw() * float(up), x0


class Multistep(Solver):
    """DPM-Solver++ (Lu et al., 2022, arXiv:2211.01095): a step also looks at the clean latents of the last steps; its
    stochastic variant draws noise (DPMSolverMultistepScheduler).

    ``lambda`` is the logarithm of picture over noise; ``h`` by how much a step raises it.
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
        """Of how many clean latents step ``step`` is made."""
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
        """The weights of the latent, of x0 and of its first and second differences, and of noise, in that order."""
        shares = [self._share(sigma) for sigma in self.sigmas]
        noises = [sigma * share for sigma, share in zip(self.sigmas, shares, strict=True)]
        with np.errstate(divide="ignore"):  # no noise at the end: an endless lambda
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
        """What the clean latents of earlier steps add; ``length`` is h, or 2 h for the stochastic variant."""
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
        half = np.float32(-0.5 if self._config.stochastic else 0.5)  # diffusers' sign, which the paper does not have
        bend = target * ((gone - _ONE + length) / length**2 - half)
        return float(target * ((gone - _ONE) / length + _ONE)) * first - float(bend) * second


def make(config: NoiseConfig, steps: int, draw: Draw) -> Solver:
    """The solver of a scheduler's configuration, for a picture of so many steps."""
    kinds: dict[type[NoiseConfig], type[Solver]] = {
        EulerConfig: Euler,
        AncestralConfig: EulerAncestral,
        MultistepConfig: Multistep,
    }
    return kinds[type(config)](config, steps, draw)
