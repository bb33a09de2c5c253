"""The runtime draws what diffusers draws."""

import json

import numpy as np
import pytest
import torch

from locara_sidecar.engine.drawing.noise import NoiseStream
from locara_sidecar.engine.torch_engine import devices
from locara_sidecar.engine.torch_engine.denoising.hooks import drawing_from, observed_steps
from support.runtimes import make_runtime

pytestmark = pytest.mark.torch

VARIANTS = {
    "guided": {},
    "unguided": {"guidance": 1.0},
    "below one": {"guidance": 0.0},
    "negative prompt": {"negative_prompt": "the yellow cat", "guidance": 7.0},
    "oblong, one step": {"width": 96, "height": 32, "steps": 1},
    "long text": {"prompt": "a red circle and " * 40},
}


def reference(pipeline, spec, output_type="pil", **noise):
    with torch.no_grad():
        return pipeline(
            prompt=spec.prompt,
            negative_prompt=spec.negative_prompt,
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance,
            max_sequence_length=spec.model.max_sequence_length,
            output_type=output_type,
            **noise,
        ).images


def noise_of(spec):
    noise = torch.from_numpy(NoiseStream(spec.seed).normal((1, 16, spec.height // 8, spec.width // 8)))
    return noise.to(devices.choose_device())


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_latents_and_pixels_equal_diffusers_to_the_bit(runtime, run, spec, diffusers_pipeline, changes):
    job = spec(**changes)
    result = run(runtime, job)
    latent = reference(diffusers_pipeline, job, "latent", latents=noise_of(job))
    assert torch.equal(result.steps[-1].x0, latent)  # the last step's prediction is the result
    pixels = reference(diffusers_pipeline, job, latents=noise_of(job))[0]
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(pixels))


def test_pixels_are_within_a_level_of_diffusers_with_a_generator(runtime, run, spec, diffusers_pipeline):
    job = spec(seed=123)
    mine = np.array(run(runtime, job).images[0]).astype(int)
    theirs = np.array(reference(diffusers_pipeline, job, generator=torch.Generator().manual_seed(123))[0]).astype(int)
    assert np.abs(mine - theirs).max() <= 1


def test_a_folder_without_the_third_encoder_runs_as_diffusers_runs_it(tmp_path, copy, run, spec, diffusers_pipeline):
    from diffusers import StableDiffusion3Pipeline

    index = copy / "model_index.json"
    parts = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps(json.loads(index.read_text()) | parts))
    job = spec(path=str(copy), max_sequence_length=1)
    result = run(make_runtime("torch", tmp_path), job)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        str(copy), text_encoder_3=None, tokenizer_3=None, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(devices.choose_device())
    theirs = reference(pipeline, job, latents=noise_of(job))[0]
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))


def test_x0_is_the_sample_minus_sigma_times_the_velocity():
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    clean, noise = torch.full((1, 2), 0.25), torch.full((1, 2), -1.5)
    sample, seen = noise, []
    with observed_steps(scheduler, lambda step, steps, x0: seen.append((step, steps, x0))):
        for timestep in scheduler.timesteps:
            sample = scheduler.step(noise - clean, timestep, sample, return_dict=False)[0]
    assert [(step, steps) for step, steps, _ in seen] == [(k, 5) for k in range(1, 6)]
    for _, _, x0 in seen:
        torch.testing.assert_close(x0, clean)
    assert "step" not in vars(scheduler)


def test_noise_is_injected_where_a_pipeline_draws_and_only_there():
    from diffusers.pipelines.stable_diffusion_3 import pipeline_stable_diffusion_3 as module

    original = module.randn_tensor
    with drawing_from(NoiseStream(3), module.__name__):
        first = module.randn_tensor((1, 4, 4), generator=None, device=torch.device("cpu"), dtype=torch.bfloat16)
        second = module.randn_tensor((1, 4, 4))
    assert module.randn_tensor is original
    whole = NoiseStream(3).normal(32).reshape(2, 1, 4, 4)
    assert torch.equal(first, torch.from_numpy(whole[0]).bfloat16())
    assert torch.equal(second, torch.from_numpy(whole[1]))
