"""Schedules of noise levels, and what one step of Euler's method does with a model's answer; in NumPy's float32.

Two kinds of model:

- *Flow matching* (SD3, FLUX): a latent at level sigma, 1 … 0, is ``(1 - sigma) * x0 + sigma * noise``, and the model
  gives the velocity ``noise - x0``. Levels are *shifted* towards noise, by a fixed factor or by one that grows with the
  number of image tokens (Esser et al., 2024, arXiv:2403.03206, section 5.3.2).
- *Scaled noise* (SDXL): a latent at level sigma, about 14.6 … 0, is ``x0 + sigma * noise``, and the model, which takes
  it divided by ``sqrt(sigma^2 + 1)``, gives the noise (Karras et al., 2022, arXiv:2206.00364).

In both, one step follows a straight line: ``x + (next sigma - sigma) * answer``, and the clean latent that a step
predicts is ``x - sigma * answer``. Levels and timesteps are those of diffusers' schedulers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

from locara_sidecar.engine.model_folder import broken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FILE = "scheduler/scheduler_config.json"
A = TypeVar("A")
C = TypeVar("C")


class Schedule(NamedTuple):
    """``sigmas`` (steps + 1,) fall and end in 0; ``timesteps`` (steps,), 0 … 1000, are what the model is told."""

    sigmas: NDArray[np.float32]
    timesteps: NDArray[np.float32]

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def after(self, first: int) -> Schedule:
        """The schedule without its first ``first`` steps: what an edit has left to do."""
        return Schedule(self.sigmas[first:], self.timesteps[first:])

    def move(self, latent: Any, answer: Any, step: int) -> Any:
        """The latent after step ``step``, from 0; arrays of any kind."""
        return latent + float(self.sigmas[step + 1] - self.sigmas[step]) * answer

    def clean(self, latent: Any, answer: Any, step: int) -> Any:
        """x0, the clean latent that step ``step`` predicts."""
        return latent - float(self.sigmas[step]) * answer


@dataclass(frozen=True)
class FlowMatchConfig:
    """``scheduler_config.json`` of diffusers' FlowMatchEulerDiscreteScheduler; defaults are diffusers'."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    shift_terminal: float | None = None
    invert_sigmas: bool = False
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    stochastic_sampling: bool = False

    def __post_init__(self) -> None:
        unknown = ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        _refuse(self, *unknown, "stochastic_sampling", "shift_terminal")


@dataclass(frozen=True)
class EulerConfig:
    """``scheduler_config.json`` of diffusers' EulerDiscreteScheduler; defaults are diffusers', but for the betas: only
    the schedule of latent diffusion is known."""

    beta_schedule: Literal["scaled_linear"]
    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    prediction_type: Literal["epsilon"] = "epsilon"
    interpolation_type: Literal["linear"] = "linear"
    timestep_type: Literal["discrete"] = "discrete"
    final_sigmas_type: Literal["zero"] = "zero"
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    rescale_betas_zero_snr: bool = False
    trained_betas: list[float] | None = None

    def __post_init__(self) -> None:
        unknown = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        _refuse(self, *unknown, "rescale_betas_zero_snr", "trained_betas")


def read(config_type: type[C], described: Mapping[str, Any]) -> C:
    """A model's ``scheduler_config.json``; members that ``config_type`` does not have are passed over.

    :raises EngineFault: IntegrityError for a switch that is not supported.
    """
    try:
        return msgspec.convert(described, config_type)
    except msgspec.ValidationError as error:
        raise broken(FILE, f"this engine cannot run it ({error})") from error


def flow_match(config: FlowMatchConfig, steps: int, tokens: int) -> Schedule:
    """SD3's: even levels from the highest to the lowest one of training, then shifted.

    :param tokens: patches of the picture, which a dynamic shift depends on.
    """
    train = config.num_train_timesteps
    lowest = np.float32(1) / np.float32(train)
    if not config.use_dynamic_shifting:  # diffusers shifts the ends of the range once more than the rest
        lowest = np.float32(config.shift) * lowest / (np.float32(1) + np.float32(config.shift - 1) * lowest)
    return _shifted(config, np.linspace(1.0 * train, float(lowest) * train, steps) / train, tokens)


def flux_flow_match(config: FlowMatchConfig, steps: int, tokens: int) -> Schedule:
    """FLUX's: ``steps`` even levels from 1 to 1 / steps, then shifted.

    :param tokens: packed latent tokens of the picture, without Kontext's reference.
    """
    return _shifted(config, np.linspace(1.0, 1.0 / steps, steps).astype(np.float32), tokens)


def euler_trailing(config: EulerConfig, steps: int) -> Schedule:
    """SDXL Lightning's: timesteps evenly spaced back from the last one (Lin et al., 2023, arXiv:2305.08891)."""
    train = config.num_train_timesteps
    timesteps = np.arange(train, 0, -train / steps).round().astype(np.float32) - np.float32(1)
    levels = _training_levels(config)
    sigmas = np.interp(timesteps, np.arange(train), levels).astype(np.float32)
    return Schedule(np.append(sigmas, np.float32(0)), timesteps)


def first_step(steps: int, strength: float, *, whole: bool) -> int:
    """How many of ``steps`` an edit of ``strength``, 0 … 1, leaves out: it starts from the picture with noise of that
    step's level. At least one step is left.

    :param whole: count whole steps before subtracting, as SDXL's pipelines do; the flow-matching ones after it.
    """
    kept = min(steps * strength, float(steps))
    return min(steps - int(kept) if whole else int(steps - kept), steps - 1)


def noised(clean: A, noise: A, sigma: float) -> A:
    """A flow-matching latent of level ``sigma``; SDXL's is ``clean + sigma * noise``."""
    return sigma * noise + (1.0 - sigma) * clean  # type: ignore[operator]


def model_scale(sigma: float) -> float:
    """What a scaled-noise latent is multiplied by before the model sees it: its variance becomes about 1."""
    return float(1 / np.sqrt(np.float32(sigma) ** 2 + np.float32(1)))


def _shifted(config: FlowMatchConfig, levels: NDArray[Any], tokens: int) -> Schedule:
    if config.use_dynamic_shifting:
        mu = _mu(config, tokens)
        factor = math.exp(mu) if config.time_shift_type == "exponential" else mu
        shifted = factor / (factor + (1 / levels - 1))
    else:
        shifted = config.shift * levels / (1 + (config.shift - 1) * levels)
    sigmas = shifted.astype(np.float32)
    return Schedule(np.append(sigmas, np.float32(0)), sigmas * np.float32(config.num_train_timesteps))


def _mu(config: FlowMatchConfig, tokens: int) -> float:
    """The logarithm of the dynamic shift: a straight line through two sizes of picture."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return tokens * slope + (config.base_shift - slope * config.base_image_seq_len)


def _training_levels(config: EulerConfig) -> NDArray[np.float32]:
    """Sigma at every timestep of training. Betas are the squares of evenly spaced numbers, in float32 from both ends
    as torch spaces them; what is left of the picture's variance after each is their running product."""
    train = config.num_train_timesteps
    start, end = np.float32(config.beta_start**0.5), np.float32(config.beta_end**0.5)
    pace = (end - start) / np.float32(train - 1)
    i = np.arange(train, dtype=np.float32)
    roots = np.where(i < train // 2, start + pace * i, end - pace * (np.float32(train - 1) - i))
    left = np.cumprod(np.float32(1) - roots * roots, dtype=np.float32)
    return ((np.float32(1) - left) / left) ** np.float32(0.5)


def _refuse(config: Any, *names: str) -> None:
    """:raises ValueError: when one of the switches is on."""
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is not supported")
