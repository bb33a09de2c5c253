"""What the runtime makes is what diffusers makes."""

import numpy as np
import pytest
import torch

from locara_sidecar.engine.noise import NoiseStream
from locara_sidecar.engine.torch_engine.hooks import drawing_from, observed_steps

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
    return torch.from_numpy(NoiseStream(spec.seed).normal((1, 16, spec.height // 8, spec.width // 8)))


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


def test_image_k_of_count_is_the_image_of_seed_plus_k_minus_1(runtime, run, spec):
    together = run(runtime, spec(count=3, seed=40))
    alone = [run(runtime, spec(seed=seed)).images[0] for seed in (40, 41, 42)]
    assert [image.tobytes() for image in together.images] == [image.tobytes() for image in alone]
    assert len({image.tobytes() for image in alone}) == 3
    assert [event.seed for event in together.events if hasattr(event, "seed")] == [40, 41, 42]


@pytest.mark.parametrize("mode", ["linear", "full"])
def test_previews_change_no_pixel(runtime, run, spec, mode):
    def look(event):
        if hasattr(event, "x0"):
            assert runtime.preview(event.x0, mode, 64) is not None

    without = run(runtime, spec(tiling="on"))
    with_previews = run(runtime, spec(tiling="on", mode=mode), on_event=look)
    assert without.images[0].tobytes() == with_previews.images[0].tobytes()


def test_events_come_in_order_and_count_the_steps_that_run(runtime, run, spec):
    run(runtime, spec())
    result = run(runtime, spec(prompt="a small black dog", count=2, steps=4))
    assert result.phases == [("encoding", 1), ("denoising", 1), ("decoding", 1), ("denoising", 2), ("decoding", 2)]
    assert [(s.image, s.step, s.steps) for s in result.steps] == [(i, k, 4) for i in (1, 2) for k in (1, 2, 3, 4)]
    assert (result.summary.settled.quantization, result.summary.settled.precision) == ("none", "float32")


def test_a_tiled_decode_does_not_leak_into_the_next_job(runtime, run, spec):
    plain = run(runtime, spec(width=256, height=256, steps=1, tiling="off"))
    run(runtime, spec(width=256, height=256, steps=1, tiling="on"))
    again = run(runtime, spec(width=256, height=256, steps=1, tiling="auto"))
    assert plain.images[0].tobytes() == again.images[0].tobytes()


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
