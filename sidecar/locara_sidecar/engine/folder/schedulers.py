"""Schedulers for models with scaled noise (SDXL's): the catalogue's names, and what is read of a model's configuration.

Both engines read ``scheduler_config.json`` with this module, so that both reject the same. A scheduler is one of
diffusers' classes with the model's configuration, whichever class that was written for: how noise was added in training
does not depend on the solver. A name may override some members, like ``Class.from_config(config, **changes)`` in
diffusers.

An option that changes pixels but is not supported here is rejected. Members that a class does not read are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from locara_sidecar.engine.folder.model_folder import broken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_sidecar.machine.supported import Noise

FILE = "scheduler/scheduler_config.json"
EULER = "EulerDiscreteScheduler"
ANCESTRAL = "EulerAncestralDiscreteScheduler"
MULTISTEP = "DPMSolverMultistepScheduler"

_TRAILING = MappingProxyType({"timestep_spacing": "trailing"})
_KARRAS = MappingProxyType({"use_karras_sigmas": True, "use_exponential_sigmas": False, "use_beta_sigmas": False})
_SECOND_ORDER = MappingProxyType({"algorithm_type": "dpmsolver++", "solver_order": 2})
_STOCHASTIC = MappingProxyType({"algorithm_type": "sde-dpmsolver++", "solver_order": 2})


class NamedScheduler(NamedTuple):
    """diffusers' class, and what overrides the model's own configuration."""

    class_name: str
    changes: Mapping[str, Any]


SCALED_NOISE: Mapping[str, NamedScheduler] = MappingProxyType({
    "euler": NamedScheduler(EULER, {}),
    "euler-trailing": NamedScheduler(EULER, _TRAILING),
    "euler-karras": NamedScheduler(EULER, _KARRAS),
    "euler-ancestral": NamedScheduler(ANCESTRAL, {}),
    "euler-ancestral-trailing": NamedScheduler(ANCESTRAL, _TRAILING),
    "dpm-multistep": NamedScheduler(MULTISTEP, {}),
    "dpmpp-2m": NamedScheduler(MULTISTEP, _SECOND_ORDER),
    "dpmpp-2m-karras": NamedScheduler(MULTISTEP, {**_SECOND_ORDER, **_KARRAS}),
    "dpmpp-2m-sde": NamedScheduler(MULTISTEP, _STOCHASTIC),
    "dpmpp-2m-sde-karras": NamedScheduler(MULTISTEP, {**_STOCHASTIC, **_KARRAS}),
})  # fmt: skip
"""By the catalogue's names."""
FLOW_MATCH: Mapping[str, NamedScheduler] = MappingProxyType(
    {"flow-match-euler": NamedScheduler("FlowMatchEulerDiscreteScheduler", {})}
)


def names(noise: Noise) -> frozenset[str]:
    """Return the catalogue's names of the schedulers for models with that kind of noise."""
    return frozenset(SCALED_NOISE if noise == "scaled" else FLOW_MATCH)


def classes(noise: Noise) -> frozenset[str]:
    """Return the classes that the scheduler in the folder of such a model may have."""
    return frozenset(chosen.class_name for chosen in (SCALED_NOISE if noise == "scaled" else FLOW_MATCH).values())


@dataclass(frozen=True)
class NoiseConfig:
    """What all classes share: how noise was added in training, and the spacing of timesteps.

    Defaults are those of diffusers.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample", "original_sample"] = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2:
            raise ValueError("num_train_timesteps must be 2 or more")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError("trained_betas must have one value for each timestep")


@dataclass(frozen=True)
class EulerConfig(NoiseConfig):
    """``scheduler_config.json`` for diffusers' EulerDiscreteScheduler."""

    interpolation_type: Literal["linear"] = "linear"
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse(self, "use_beta_sigmas")
        _one_of(self, "use_karras_sigmas", "use_exponential_sigmas")
        if self.timestep_type == "continuous" and self.prediction_type == "v_prediction":
            raise ValueError("timestep_type 'continuous' with v_prediction is not supported")


@dataclass(frozen=True)
class AncestralConfig(NoiseConfig):
    """``scheduler_config.json`` for diffusers' EulerAncestralDiscreteScheduler."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


@dataclass(frozen=True)
class MultistepConfig(NoiseConfig):
    """``scheduler_config.json`` for diffusers' DPMSolverMultistepScheduler."""

    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = float("-inf")
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_lu_lambdas: bool = False
    use_beta_sigmas: bool = False
    use_flow_sigmas: bool = False
    thresholding: bool = False
    variance_type: str | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse(self, "use_beta_sigmas", "use_flow_sigmas", "thresholding", "variance_type")
        _one_of(self, "use_karras_sigmas", "use_exponential_sigmas")

    @property
    def stochastic(self) -> bool:
        """Whether each step draws noise."""
        return self.algorithm_type == "sde-dpmsolver++"

    @property
    def heun(self) -> bool:
        """Whether second-order steps are Heun's; other classes' solver types are read as midpoint, as in diffusers."""
        return self.solver_type == "heun"


CONFIGS: Mapping[str, type[NoiseConfig]] = MappingProxyType(
    {EULER: EulerConfig, ANCESTRAL: AncestralConfig, MULTISTEP: MultistepConfig}
)
"""By diffusers' class. A model's own scheduler must be of one of them."""


class ChosenScheduler(NamedTuple):
    """A scheduler for a model: diffusers' class, what overrides the model's own configuration, and the result."""

    class_name: str
    changes: Mapping[str, Any]
    config: NoiseConfig


def choose(described: Mapping[str, Any], own_class: str, name: str | None = None) -> ChosenScheduler:
    """Return the scheduler of the catalogue's ``name`` for a model with the configuration ``described``.

    :param own_class: the class that the model's index names, used unchanged if ``name`` is None.
    :raises EngineError: IntegrityError for a configuration that is not supported.
    """
    class_name, changes = SCALED_NOISE[name] if name is not None else NamedScheduler(own_class, {})
    try:
        return ChosenScheduler(
            class_name, changes, msgspec.convert(dict(described) | dict(changes), CONFIGS[class_name])
        )
    except msgspec.ValidationError as error:
        raise broken(FILE, f"{class_name} cannot be run with it here ({error})") from error


def _refuse(config: Any, *names: str) -> None:
    """Reject options that are not supported.

    :raises ValueError: if one of them is on.
    """
    for name in names:
        if getattr(config, name):
            raise ValueError(f"{name} is not supported")


def _one_of(config: Any, *names: str) -> None:
    """Reject contradictory options, as diffusers does.

    :raises ValueError: if more than one of them is on.
    """
    if sum(bool(getattr(config, name)) for name in names) > 1:
        raise ValueError(f"only one of {', '.join(names)} can be on")
