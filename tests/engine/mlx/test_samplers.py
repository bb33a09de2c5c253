"""Noise levels, timesteps and steps of flow matching against diffusers' scheduler."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from locara_sidecar.engine.mlx_engine.schedules import samplers
from locara_sidecar.ipc.errors import EngineError
from support.parity import TOLERANCES, error

DEV = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
RESPACED = {
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "its own end": {"shift_terminal": 0.1},
    "inverted": {"invert_sigmas": True},
    "all": {"shift_terminal": 0.02, "use_karras_sigmas": True, "invert_sigmas": True},
}
"""Members that this class has in video models."""
LINEAR = DEV | {"time_shift_type": "linear", "max_image_seq_len": 9000}


def same(ours, theirs):
    assert error(ours.sigmas, theirs.sigmas) < TOLERANCES["sigmas"]
    assert error(ours.timesteps, theirs.timesteps) < TOLERANCES["sigmas"]
    assert ours.sigmas.dtype == ours.timesteps.dtype == np.float32


def mu(scheduler, tokens):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = scheduler.config
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    return calculate_shift(tokens, *(config[name] for name in names))


@pytest.mark.parametrize("steps", [1, 4, 28, 100])
@pytest.mark.parametrize("config", [{"shift": 3.0}, {"shift": 1.0}, {"shift": 0.7}, DEV])
def test_sd3_has_diffusers_levels(config, steps):
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(steps, mu=mu(theirs, 1024) if "base_shift" in config else None)
    same(samplers.flow_match(samplers.read(samplers.FlowMatchConfig, config), steps, 1024), theirs)


@pytest.mark.parametrize("steps", [1, 4, 28, 100])
@pytest.mark.parametrize("tokens", [256, 1024, 4096, 6000])
@pytest.mark.parametrize("config", [{"shift": 1.0}, DEV, LINEAR])
def test_flux_has_diffusers_levels(config, tokens, steps):
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu(theirs, tokens))
    same(samplers.flux_flow_match(samplers.read(samplers.FlowMatchConfig, config), steps, tokens), theirs)


@pytest.mark.parametrize("steps", [2, 4, 28])
@pytest.mark.parametrize("base", [{"shift": 3.0}, DEV], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("changes", RESPACED.values(), ids=RESPACED)
def test_levels_that_are_spaced_anew_are_diffusers(changes, base, steps):
    config = base | changes
    ours = samplers.read(samplers.FlowMatchConfig, config)
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(steps, mu=mu(theirs, 1024) if "base_shift" in config else None)
    same(samplers.flow_match(ours, steps, 1024), theirs)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu(theirs, 1024))
    same(samplers.flux_flow_match(ours, steps, 1024), theirs)


def test_steps_and_clean_latents_of_a_flow_are_diffusers():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(5)
    ours = samplers.flow_match(samplers.FlowMatchConfig(shift=3.0), 5, 1024)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, generator=generator)
    mine = x.numpy()
    for step, timestep in enumerate(theirs.timesteps):
        velocity = torch.randn(2, 3, generator=generator)
        clean = x - theirs.sigmas[step] * velocity
        assert error(ours.clean(mine, velocity.numpy(), step), clean) < 1e-6
        x = theirs.step(velocity, timestep, x, return_dict=False)[0]
        mine = ours.move(mine, velocity.numpy(), step)
        assert error(mine, x) < 1e-6
    assert error(mine, clean) < 1e-6


@pytest.mark.parametrize("steps", [1, 3, 4, 28, 50])
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.3, 0.5, 0.6, 0.75, 0.99, 1.0])
def test_an_edit_starts_where_diffusers_pipelines_start(steps, strength):
    from diffusers import FluxImg2ImgPipeline, StableDiffusion3Img2ImgPipeline, StableDiffusionXLImg2ImgPipeline

    class Pipeline:
        scheduler = FlowMatchEulerDiscreteScheduler()

    Pipeline.scheduler.set_timesteps(steps)
    for pipeline, whole in (
        (StableDiffusion3Img2ImgPipeline, False),
        (FluxImg2ImgPipeline, False),
        (StableDiffusionXLImg2ImgPipeline, True),
    ):
        left, _ = pipeline.get_timesteps(Pipeline, steps, strength, None)
        first = samplers.first_step(steps, strength, whole=whole)
        if not len(left):  # diffusers' pipelines refuse that
            left = [0]
        assert len(left) == steps - first
        schedule = samplers.flow_match(samplers.FlowMatchConfig(), steps, 256).after(first)
        assert schedule.steps == len(left)
        assert len(schedule.sigmas) == len(left) + 1


def test_a_picture_with_noise_is_what_diffusers_makes_of_it():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(4)
    clean, noise = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    reference = theirs.scale_noise(clean, theirs.timesteps[1:2], noise)
    assert error(samplers.noised(clean.numpy(), noise.numpy(), float(theirs.sigmas[1])), reference) < 1e-6


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (samplers.FlowMatchConfig, {"use_beta_sigmas": True}),
        (samplers.FlowMatchConfig, {"stochastic_sampling": True}),
        (samplers.FlowMatchConfig, {"shift": "three"}),
    ],
)
def test_a_switch_that_is_not_supported_is_refused(kind, config):
    with pytest.raises(EngineError) as caught:
        samplers.read(kind, config)
    assert caught.value.kind == "IntegrityError"


@pytest.mark.parametrize("steps", [1, 4, 9, 50, 200])
@pytest.mark.parametrize("tokens", [1, 256, 4096, 4300, 4301, 6000])
@pytest.mark.parametrize("config", [{"shift": 3.0}, DEV])
def test_flux2_has_diffusers_levels(config, tokens, steps):
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=compute_empirical_mu(tokens, steps))
    same(samplers.flux2_flow_match(samplers.read(samplers.FlowMatchConfig, config), steps, tokens), theirs)
