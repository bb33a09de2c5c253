"""Noise levels, timesteps and steps against diffusers' schedulers."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from locara_sidecar.engine.mlx_engine import samplers
from locara_sidecar.engine.runtime import EngineFault
from support.parity import TOLERANCES, error

SDXL = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "interpolation_type": "linear", "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1,
    "use_karras_sigmas": False, "trained_betas": None, "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip
# diffusers 0.42 converts its levels in a way that NumPy 2 warns of
old_numpy = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
DEV = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
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


@old_numpy
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 27, 50])
def test_sdxl_lightning_has_diffusers_levels_whatever_the_folder_says_of_spacing(steps):
    theirs = EulerDiscreteScheduler.from_config(SDXL, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    ours = samplers.euler_trailing(samplers.read(samplers.EulerConfig, SDXL), steps)
    same(ours, theirs)
    assert ours.sigmas[0] == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)


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


@old_numpy
def test_steps_clean_latents_and_inputs_of_sdxl_are_diffusers():
    theirs = EulerDiscreteScheduler.from_config(SDXL, timestep_spacing="trailing")
    theirs.set_timesteps(4)
    ours = samplers.euler_trailing(samplers.read(samplers.EulerConfig, SDXL), 4)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, generator=generator) * theirs.init_noise_sigma
    mine = x.numpy()
    for step, timestep in enumerate(theirs.timesteps):
        seen = mine * samplers.model_scale(float(ours.sigmas[step]))
        assert error(seen, theirs.scale_model_input(x, timestep)) < 1e-6
        noise = torch.randn(2, 3, generator=generator)
        output = theirs.step(noise, timestep, x)
        assert error(ours.clean(mine, noise.numpy(), step), output.pred_original_sample) < 1e-6
        x, mine = output.prev_sample, ours.move(mine, noise.numpy(), step)
        assert error(mine, x) < 1e-6


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
        if not len(left):  # their pipelines refuse it
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
        (samplers.FlowMatchConfig, {"use_karras_sigmas": True}),
        (samplers.FlowMatchConfig, {"stochastic_sampling": True}),
        (samplers.FlowMatchConfig, {"shift_terminal": 0.02}),
        (samplers.FlowMatchConfig, {"shift": "three"}),
        (samplers.EulerConfig, SDXL | {"prediction_type": "v_prediction"}),
        (samplers.EulerConfig, SDXL | {"beta_schedule": "linear"}),
        (samplers.EulerConfig, SDXL | {"rescale_betas_zero_snr": True}),
    ],
)
def test_a_switch_that_is_not_supported_is_refused(kind, config):
    with pytest.raises(EngineFault) as caught:
        samplers.read(kind, config)
    assert caught.value.kind == "IntegrityError"
