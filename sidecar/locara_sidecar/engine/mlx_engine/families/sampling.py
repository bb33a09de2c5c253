"""The denoising loop of one image, for any model: its start, its steps, and what a mask preserves.

An edit starts from its picture with noise of a later level, and runs only the remaining steps. Where a mask is black,
every step's result is replaced by the picture itself with noise of the level reached. Random numbers are drawn in
diffusers' order: first the autoencoder's sample of the picture, then the noise.

Latents are (1, height, width, C) in float32; models may compute in other types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from locara_sidecar.engine.drawing.family import Embedding
from locara_sidecar.engine.drawing.source import painted_patches
from locara_sidecar.engine.mlx_engine.families.family import channels_last
from locara_sidecar.engine.mlx_engine.schedules import samplers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL.Image import Image as PilImage

    from locara_sidecar.engine.drawing.family import Denoising, OnStep
    from locara_sidecar.engine.drawing.noise import NoiseStream
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae
    from locara_sidecar.engine.mlx_engine.pace import Checkpoints, Paced

_STEPS_AT_ONCE = 32

Predict = Callable[[mx.array, int], mx.array]
"""Returns the model's output in float32 for a latent at a step, from 0."""
Mix = Callable[[mx.array, mx.array, float], mx.array]
"""Mixes a clean latent with noise to a latent at level sigma."""


class Steps(Protocol):
    """A model's conditioning for many steps, or for one."""

    def at(self, step: int) -> Any: ...


S = TypeVar("S", bound=Steps)


class Schedule(Protocol):
    """The levels of one picture and the steps between them: a flow-matching schedule or a solver of ``solvers.py``."""

    @property
    def sigmas(self) -> NDArray[np.float32]: ...

    @property
    def timesteps(self) -> NDArray[np.float32]: ...

    @property
    def steps(self) -> int: ...

    @property
    def initial(self) -> float: ...

    def step(self, latent: mx.array, answer: mx.array, step: int) -> tuple[mx.array, mx.array]: ...


class KeptRegion(NamedTuple):
    """The region to keep: ``mask`` (1, height, width, 1) is 1 where the model paints and 0 where the picture stays."""

    clean: mx.array
    noise: mx.array
    mask: mx.array


class StartLatent(NamedTuple):
    """A latent at the first level of ``schedule``."""

    latent: mx.array
    schedule: Schedule
    held: KeptRegion | None = None


def from_noise(noise: NoiseStream, size: tuple[int, int], channels: int, schedule: Schedule) -> StartLatent:
    """Start a picture of ``size`` (height, width) latent pixels from noise alone."""
    return StartLatent(schedule.initial * channels_last(noise.normal((1, channels, *size))), schedule)


def from_picture(
    vae: Vae,
    source: Source,
    noise: NoiseStream,
    left: Schedule,
    mix: Mix,
    pace: Paced,
    *,
    tiled: bool,
    all_noise: bool = True,
) -> StartLatent:
    """Start an edit.

    :param left: the steps that the edit's strength leaves.
    :param tiled: encode the picture in strips.
    :param all_noise: at full strength with a mask, start from noise alone, whatever the first level is.
    """
    posterior = vae.encode(pixels_of(source.image).astype(vae.dtype), pace, tiled=tiled)
    mean, deviation = posterior.mean.astype(mx.float32), posterior.deviation.astype(mx.float32)
    shape = (1, mean.shape[3], mean.shape[1], mean.shape[2])
    clean = vae.from_raw(mean + deviation * channels_last(noise.normal(shape)))
    drawn = channels_last(noise.normal(shape))
    nothing = all_noise and source.mask is not None and source.strength == 1
    latent = left.initial * drawn if nothing else mix(clean, drawn, float(left.sigmas[0]))
    mx.eval(latent, clean)
    if source.mask is None:
        return StartLatent(latent, left)
    return StartLatent(
        latent, left, KeptRegion(clean, drawn, _weights(painted_patches(source.mask, vae.config.factor)))
    )


def flow_match_start(
    vae: Vae,
    task: Denoising,
    size: tuple[int, int],
    schedule: samplers.Schedule,
    pace: Paced,
    *,
    all_noise: bool,
) -> StartLatent:
    """Start a picture or an edit with flow matching; an edit of strength s keeps about s of the steps.

    :param all_noise: as in :func:`from_picture`.
    """
    source = task.source
    if source is None:
        return from_noise(task.noise, size, vae.config.latent_channels, schedule)
    assert source.strength is not None
    left = schedule.after(samplers.first_step(schedule.steps, source.strength, whole=False))
    tiled = task.spec.tiling == "on"
    return from_picture(vae, source, task.noise, left, samplers.noised, pace, tiled=tiled, all_noise=all_noise)


def run(start: StartLatent, predict: Predict, mix: Mix, on_step: OnStep) -> mx.array:
    """Run the loop and return the finished latent. ``on_step`` is called after each step, with evaluated arrays."""
    latent, schedule, held = start
    for step in range(schedule.steps):
        latent, x0 = schedule.step(latent, predict(latent, step), step)
        if held is not None:
            last = step + 1 == schedule.steps  # clean, whatever its level is
            kept = held.clean if last else mix(held.clean, held.noise, float(schedule.sigmas[step + 1]))
            latent = held.mask * latent + (1 - held.mask) * kept
        mx.eval(latent, x0)
        on_step(step + 1, schedule.steps, x0)
    return latent


def together(prompt: Embedding, negative: Embedding | None) -> Embedding:
    """Join both texts in one batch, the negative one first, to read weights only once; or return the prompt alone."""
    if negative is None:
        return prompt
    return Embedding(*(mx.concatenate(list(pair)) for pair in zip(negative, prompt, strict=True)))


def guided(answer: mx.array, guidance: float) -> mx.array:
    """Combine the output for a batch of :func:`together` by classifier-free guidance.

    See Ho and Salimans, 2022, arXiv:2207.12598. A single output is returned unchanged.
    """
    if answer.shape[0] == 1:
        return answer
    without, following = mx.split(answer, 2)
    return without + guidance * (following - without)


def made_ahead(make: Callable[[mx.array], S], timesteps: NDArray[Any], checkpoints: Checkpoints) -> Iterator[Any]:
    """Yield each step's part of what ``make`` computes for many steps at a time, evaluated.

    What does not depend on the latent is computed before the loop, because it may read a large part of all weights.

    :raises JobCancelled: between two batches of steps.
    """
    for first in range(0, len(timesteps), _STEPS_AT_ONCE):
        part = timesteps[first : first + _STEPS_AT_ONCE]
        together = make(mx.array(part))
        mx.eval(together)
        checkpoints.checkpoint()
        yield from (together.at(step) for step in range(len(part)))


def pixels_of(image: PilImage) -> mx.array:
    """Convert an RGB picture to (1, height, width, 3), -1 … 1."""
    values = np.asarray(image, dtype=np.float32)[None] / np.float32(255)
    return mx.array(values * 2 - 1)


def _weights(painted: NDArray[Any]) -> mx.array:
    """Return (1, height, width, 1): 1 where the model paints, 0 where it does not."""
    return mx.array(painted.astype(np.float32)[None, :, :, None])
