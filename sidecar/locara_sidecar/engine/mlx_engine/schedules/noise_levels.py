"""Noise levels of models with scaled noise (SDXL): those of training, and those at which a picture's steps stop.

A level, sigma, is the ratio of noise to picture after some number of training's small additions of noise, whose sizes
are the *betas*. All computations follow diffusers, in NumPy, and use float32 wherever diffusers does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from locara_sidecar.engine.folder.schedulers import AncestralConfig, MultistepConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from locara_sidecar.engine.folder.schedulers import EulerConfig, NoiseConfig

_ONE = np.float32(1)
_ALMOST_NOTHING = np.float32(2.0**-24)
"""Remaining variance of the picture at the last timestep, if training ended in pure noise; 0 would have no level."""
_RHO = 7.0  # Karras et al., 2022, arXiv:2206.00364, section D.1
_MOST_BETA = 0.999


def levels(config: NoiseConfig, steps: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``sigmas`` (steps + 1,), which decrease, and ``timesteps`` (steps,), which the model gets.

    (With "leading" spacing and more steps than training timesteps, the last ones are equal, as in diffusers.)
    """
    left = _left(config)
    trained = ((_ONE - left) / left) ** np.float32(0.5)
    multistep = isinstance(config, MultistepConfig)
    timesteps = _multistep_timesteps(config, steps, left) if multistep else _timesteps(config, steps)
    sigmas: NDArray[Any] = np.interp(timesteps, np.arange(len(trained)), trained)
    last = np.float32(0)
    if not isinstance(config, AncestralConfig):
        chosen: EulerConfig | MultistepConfig = config  # type: ignore[assignment]
        sigmas, timesteps = _respaced(chosen, steps, sigmas, timesteps, trained)
        last = trained[0] if chosen.final_sigmas_type == "sigma_min" else last
    if multistep:
        timesteps = timesteps.astype(np.int64)
    return np.append(sigmas, last).astype(np.float32), timesteps.astype(np.float32)


def _left(config: NoiseConfig) -> NDArray[np.float32]:
    """Return the remaining variance of the picture at each training timestep: the cumulative product of 1 - beta."""
    betas = _betas(config)
    if not config.rescale_betas_zero_snr:
        return _product(_ONE - betas)
    # Lin et al., 2023, arXiv:2305.08891, algorithm 1: shifted and scaled so that nothing remains at the end
    roots = np.sqrt(_product(_ONE - betas))
    first, last = roots[0].copy(), roots[-1].copy()
    roots = (roots - last) * (first / (first - last))
    whole = roots**2
    kept = np.concatenate([whole[:1], whole[1:] / whole[:-1]])
    left = _product(_ONE - (_ONE - kept))
    left[-1] = _ALMOST_NOTHING
    return left


def _product(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cumulative product, rounded to float32 only at the end, as torch does on the CPU."""
    return np.cumprod(values, dtype=np.float64).astype(np.float32)


def _betas(config: NoiseConfig) -> NDArray[np.float32]:
    train = config.num_train_timesteps
    if config.trained_betas is not None:
        return np.array(config.trained_betas, dtype=np.float32)
    if config.beta_schedule == "linear":
        return _linspace(config.beta_start, config.beta_end, train)
    if config.beta_schedule == "scaled_linear":
        roots = _linspace(config.beta_start**0.5, config.beta_end**0.5, train)
        return roots * roots
    kept = [math.cos((i / train + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(train + 1)]
    return np.array([min(1 - kept[i + 1] / kept[i], _MOST_BETA) for i in range(train)], dtype=np.float32)


def _linspace(start: float, end: float, count: int) -> NDArray[np.float32]:
    """Return evenly spaced float32 numbers, counted from both ends as torch does."""
    first, last = np.float32(start), np.float32(end)
    pace = (last - first) / np.float32(count - 1)
    i = np.arange(count, dtype=np.float32)
    return np.where(i < count // 2, first + pace * i, last - pace * (np.float32(count - 1) - i))


def _timesteps(config: NoiseConfig, steps: int) -> NDArray[Any]:
    train = config.num_train_timesteps
    if config.timestep_spacing == "linspace":
        return np.linspace(0, train - 1, steps, dtype=np.float32)[::-1]
    if config.timestep_spacing == "leading":
        return (np.arange(steps) * (train // steps))[::-1].astype(np.float32) + np.float32(config.steps_offset)
    return np.arange(train, 0, -train / steps).round().astype(np.float32) - _ONE


def _multistep_timesteps(config: MultistepConfig, steps: int, left: NDArray[np.float32]) -> NDArray[Any]:
    """Return the first ``steps`` of ``steps + 1`` integer timesteps."""
    ratios = np.log(np.sqrt(left)) - np.log(np.sqrt(_ONE - left))
    train = config.num_train_timesteps
    last = train - int(np.searchsorted(ratios[::-1], np.float32(config.lambda_min_clipped)))
    if config.timestep_spacing == "linspace":
        return np.linspace(0, last - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
    if config.timestep_spacing == "leading":
        return (np.arange(steps + 1) * (last // (steps + 1)))[::-1][:-1].astype(np.int64) + config.steps_offset
    return np.arange(last, 0, -train / steps).round().astype(np.int64) - 1


def _respaced(
    config: EulerConfig | MultistepConfig,
    steps: int,
    sigmas: NDArray[Any],
    timesteps: NDArray[Any],
    trained: NDArray[np.float32],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Respace the same number of levels if the configuration says so; returns them with the nearest timesteps.

    Euler keeps the ends of its own spacing; the multistep solver uses those of training.
    """
    multistep = isinstance(config, MultistepConfig)
    # if "trailing" rounds to one step more, the spacing still has the number asked for
    high, low = (trained[-1], trained[0]) if multistep else (sigmas[0], sigmas[-1])
    high = float(high) if config.sigma_max is None else config.sigma_max
    low = float(low) if config.sigma_min is None else config.sigma_min
    whole = multistep and config.beta_schedule != "squaredcos_cap_v2"
    if config.use_karras_sigmas:
        most, least = high ** (1 / _RHO), low ** (1 / _RHO)
        sigmas = (most + np.linspace(0, 1, steps) * (least - most)) ** _RHO
    elif multistep and config.use_lu_lambdas:
        ends = np.log(trained)
        sigmas = np.exp(float(ends[-1]) + np.linspace(0, 1, steps) * (float(ends[0]) - float(ends[-1])))
    elif config.use_exponential_sigmas:
        sigmas, whole = np.exp(np.linspace(math.log(high), math.log(low), steps)), False
    else:
        return sigmas, timesteps
    found = np.array([_timestep(sigma, np.log(trained)) for sigma in sigmas])
    return sigmas, found.round() if whole else found


def _timestep(sigma: float, logarithms: NDArray[np.float32]) -> float:
    """Return the position of level ``sigma`` among those of training."""
    wanted = np.log(np.maximum(sigma, 1e-10))
    below = int(np.clip(np.cumsum(wanted >= logarithms).argmax(), None, len(logarithms) - 2))
    low, high = logarithms[below], logarithms[below + 1]
    part = np.clip((low - wanted) / (low - high), 0, 1)
    return float((1 - part) * below + part * (below + 1))
