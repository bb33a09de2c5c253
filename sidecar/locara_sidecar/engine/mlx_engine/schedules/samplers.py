"""Flow-matching schedules (SD3, FLUX): noise levels and Euler's method, in NumPy with float32.

A latent at level sigma, 1 … 0, is ``(1 - sigma) * x0 + sigma * noise``, and the model predicts the velocity
``noise - x0``. Levels are *shifted* towards noise, by a fixed factor or by one that grows with the number of image
tokens (Esser et al., 2024, arXiv:2403.03206, section 5.3.2). A step is linear: ``x + (next sigma - sigma) * answer``,
and the clean latent that it predicts is ``x - sigma * answer``. Levels and timesteps are those of diffusers' scheduler.
SDXL's are in :mod:`.solvers`.

A configuration may contain more options, as for video models: shifted levels may be stretched to end at a given level,
respaced between their ends, or inverted, from picture to noise.
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
_LARGE = 4300
"""Tokens of a picture above which FLUX.2's shift does not depend on the steps."""
A = TypeVar("A")
C = TypeVar("C")


class Schedule(NamedTuple):
    """``sigmas`` (steps + 1,) decrease to 0 or, inverted, increase to 1.

    ``timesteps`` (steps,), 0 … 1000, are what the model gets.
    """

    sigmas: NDArray[np.float32]
    timesteps: NDArray[np.float32]

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def after(self, first: int) -> Schedule:
        """Return the schedule without its first ``first`` steps: what remains for an edit."""
        return Schedule(self.sigmas[first:], self.timesteps[first:])

    @property
    def initial(self) -> float:
        """Factor of the noise if a picture starts from noise alone, whatever the first level is."""
        return 1.0

    def step(self, latent: Any, answer: Any, step: int) -> tuple[Any, Any]:
        """Return the results of :meth:`move` and :meth:`clean`."""
        return self.move(latent, answer, step), self.clean(latent, answer, step)

    def move(self, latent: Any, answer: Any, step: int) -> Any:
        """Return the latent after step ``step``, from 0; for arrays of any kind."""
        return latent + float(self.sigmas[step + 1] - self.sigmas[step]) * answer

    def clean(self, latent: Any, answer: Any, step: int) -> Any:
        """Return x0, the clean latent that step ``step`` predicts."""
        return latent - float(self.sigmas[step]) * answer


@dataclass(frozen=True)
class FlowMatchConfig:
    """``scheduler_config.json`` of diffusers' FlowMatchEulerDiscreteScheduler, with diffusers' defaults."""

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
    """Read a model's ``scheduler_config.json``, ignoring members that ``config_type`` does not have.

    :raises EngineError: IntegrityError for an option that is not supported.
    """
    try:
        return msgspec.convert(described, config_type)
    except msgspec.ValidationError as error:
        raise broken(FILE, f"this engine cannot run it ({error})") from error


def flow_match(config: FlowMatchConfig, steps: int, tokens: int) -> Schedule:
    """Return SD3's schedule: evenly spaced from the highest to the lowest level of training, then shifted.

    :param tokens: patches of the picture, which a dynamic shift depends on.
    """
    train = config.num_train_timesteps
    lowest = np.float32(1) / np.float32(train)
    if not config.use_dynamic_shifting:  # diffusers shifts the ends of the range twice, the rest once
        lowest = np.float32(config.shift) * lowest / (np.float32(1) + np.float32(config.shift - 1) * lowest)
    levels = np.linspace(1.0 * train, float(lowest) * train, steps) / train
    return _shifted(config, levels, _mu(config, tokens))


def flux_flow_match(config: FlowMatchConfig, steps: int, tokens: int) -> Schedule:
    """Return FLUX's schedule: ``steps`` evenly spaced levels from 1 to 1 / steps, then shifted.

    :param tokens: packed latent tokens of the picture, without Kontext's reference.
    """
    return _shifted(config, np.linspace(1.0, 1.0 / steps, steps).astype(np.float32), _mu(config, tokens))


def flux2_flow_match(config: FlowMatchConfig, steps: int, tokens: int) -> Schedule:
    """Return FLUX.2's schedule: FLUX's, with a dynamic shift that also depends on the steps.

    :param tokens: those of the picture, without references.
    """
    return _shifted(config, np.linspace(1.0, 1.0 / steps, steps).astype(np.float32), _empirical_mu(tokens, steps))


def first_step(steps: int, strength: float, *, whole: bool) -> int:
    """Return how many of ``steps`` an edit of ``strength``, 0 … 1, skips; at least one step remains.

    The edit starts from the picture with noise of that step's level.

    :param whole: round to whole steps before subtracting, as SDXL's pipelines do; flow-matching ones round after it.
    """
    kept = min(steps * strength, float(steps))
    return min(steps - int(kept) if whole else int(steps - kept), steps - 1)


def noised(clean: A, noise: A, sigma: float) -> A:
    """Return a latent of level ``sigma``."""
    return sigma * noise + (1.0 - sigma) * clean  # type: ignore[operator]


def _shifted(config: FlowMatchConfig, levels: NDArray[Any], mu: float) -> Schedule:
    if config.use_dynamic_shifting:
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
    """Return as many levels, spaced as the configuration says."""
    if config.shift_terminal:
        with np.errstate(invalid="ignore"):  # a single step cannot be stretched: not a number, as in diffusers
            sigmas = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - config.shift_terminal))
    high, low = float(sigmas[0]), float(sigmas[-1])
    if config.use_karras_sigmas:
        most, least = high ** (1 / _RHO), low ** (1 / _RHO)
        return (most + np.linspace(0, 1, len(sigmas)) * (least - most)) ** _RHO
    if config.use_exponential_sigmas:
        return np.exp(np.linspace(math.log(high), math.log(low), len(sigmas)))
    return sigmas


def _mu(config: FlowMatchConfig, tokens: int) -> float:
    """Return the logarithm of the dynamic shift: linear in the tokens, through the values for two picture sizes."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return tokens * slope + (config.base_shift - slope * config.base_image_seq_len)


def _empirical_mu(tokens: int, steps: int) -> float:
    """Return the logarithm of FLUX.2's shift: linear in the tokens, with one line for 10 steps and one for 200, and
    interpolated for other numbers; large pictures use the second line whatever the steps are.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > _LARGE:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    slope = (many - few) / 190.0
    return slope * steps + (many - 200.0 * slope)


def _refuse(config: Any, *names: str) -> None:
    """Reject options that are not supported.

    :raises ValueError: if one of them is on.
    """
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is not supported")
