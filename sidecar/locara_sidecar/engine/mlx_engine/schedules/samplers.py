"""Schedules of flow matching (SD3, FLUX): noise levels, and one step of Euler's method; in NumPy's float32.

A latent at level sigma, 1 … 0, is ``(1 - sigma) * x0 + sigma * noise``, and the model gives the velocity
``noise - x0``. Levels are *shifted* towards noise, by a fixed factor or by one that grows with the number of image
tokens (Esser et al., 2024, arXiv:2403.03206, section 5.3.2). A step follows a straight line:
``x + (next sigma - sigma) * answer``, and the clean latent that it predicts is ``x - sigma * answer``. Levels and
timesteps are those of diffusers' scheduler. SDXL's are in :mod:`.solvers`.

A configuration may say more, as video models' do: that the levels, once shifted, are stretched to end at a level of
their own, spaced anew between their ends, or counted from the picture to the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

from locara_sidecar.engine.folder.model_folder import broken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FILE = "scheduler/scheduler_config.json"
_RHO = 7.0  # Karras et al., 2022, arXiv:2206.00364, section D.1
A = TypeVar("A")
C = TypeVar("C")


class Schedule(NamedTuple):
    """``sigmas`` (steps + 1,) fall and end in 0, or, inverted, rise to 1; ``timesteps`` (steps,), 0 … 1000, are
    what the model is told."""

    sigmas: NDArray[np.float32]
    timesteps: NDArray[np.float32]

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def after(self, first: int) -> Schedule:
        """The schedule without its first ``first`` steps: what an edit has left to do."""
        return Schedule(self.sigmas[first:], self.timesteps[first:])

    @property
    def initial(self) -> float:
        """What noise is multiplied by where a picture begins from nothing else, whatever the first level is."""
        return 1.0

    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        """:meth:`move` and :meth:`clean`."""
        return self.move(latent, answer, step), self.clean(latent, answer, step)

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
        _refuse(self, "use_beta_sigmas", "stochastic_sampling")


def read(config_type: type[C], described: Mapping[str, Any]) -> C:
    """A model's ``scheduler_config.json``; members that ``config_type`` does not have are passed over.

    :raises EngineError: IntegrityError for a switch that is not supported.
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


def first_step(steps: int, strength: float, *, whole: bool) -> int:
    """How many of ``steps`` an edit of ``strength``, 0 … 1, leaves out: it starts from the picture with noise of that
    step's level. At least one step is left.

    :param whole: count whole steps before subtracting, as SDXL's pipelines do; the flow-matching ones after it.
    """
    kept = min(steps * strength, float(steps))
    return min(steps - int(kept) if whole else int(steps - kept), steps - 1)


def noised(clean: A, noise: A, sigma: float) -> A:
    """A latent of level ``sigma``."""
    return sigma * noise + (1.0 - sigma) * clean  # type: ignore[operator]


def _shifted(config: FlowMatchConfig, levels: NDArray[Any], tokens: int) -> Schedule:
    if config.use_dynamic_shifting:
        mu = _mu(config, tokens)
        factor = math.exp(mu) if config.time_shift_type == "exponential" else mu
        shifted = factor / (factor + (1 / levels - 1))
    else:
        shifted = config.shift * levels / (1 + (config.shift - 1) * levels)
    sigmas = _respaced(config, shifted).astype(np.float32)
    if config.invert_sigmas:
        sigmas = np.float32(1) - sigmas
    last = np.float32(config.invert_sigmas)
    return Schedule(np.append(sigmas, last), sigmas * np.float32(config.num_train_timesteps))


def _respaced(config: FlowMatchConfig, sigmas: NDArray[Any]) -> NDArray[Any]:
    """As many levels, spaced as the configuration says."""
    if config.shift_terminal:
        with np.errstate(invalid="ignore"):  # one step alone cannot end elsewhere: no number, in diffusers as here
            sigmas = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - config.shift_terminal))
    high, low = float(sigmas[0]), float(sigmas[-1])
    if config.use_karras_sigmas:
        most, least = high ** (1 / _RHO), low ** (1 / _RHO)
        return (most + np.linspace(0, 1, len(sigmas)) * (least - most)) ** _RHO
    if config.use_exponential_sigmas:
        return np.exp(np.linspace(math.log(high), math.log(low), len(sigmas)))
    return sigmas


def _mu(config: FlowMatchConfig, tokens: int) -> float:
    """The logarithm of the dynamic shift: a straight line through two sizes of picture."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return tokens * slope + (config.base_shift - slope * config.base_image_seq_len)


def _refuse(config: Any, *names: str) -> None:
    """:raises ValueError: when one of the switches is on."""
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is not supported")
