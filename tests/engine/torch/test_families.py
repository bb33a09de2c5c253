"""Every family draws what diffusers draws, and its previews show what will come."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch

from locara_sidecar.engine.drawing.noise import NoiseStream
from locara_sidecar.engine.torch_engine.families import diffusers_family
from locara_sidecar.ipc.errors import EngineError
from support import diffusers_reference as reference
from support.fixture_models import FAMILIES

pytestmark = pytest.mark.torch

NEW = FAMILIES[1:]
VARIANTS = {
    "as it is": {},
    "oblong, one step": {"width": 96, "height": 32, "steps": 1},
    "many steps, other guidance": {"steps": 7, "guidance": 1.7},
    "long text": {"prompt": "a red circle and " * 40},
    "guidance 0": {"guidance": 0.0},
}


@pytest.fixture(autouse=True)
def _quiet(runtimes, run, job_for):
    """Request the runtime first: its settings keep the libraries quiet."""
    run(runtimes("tiny-flux"), job_for("tiny-flux", steps=1))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("model", NEW)
def test_pixels_equal_diffusers_to_the_bit(runtimes, run, job_for, model, changes):
    spec = job_for(model, **changes)
    result = run(runtimes(model), spec)
    with reference.drawing(model, reference.TEXT, spec.seed) as shapes:
        theirs = reference.picture(model, spec)
    channels, factor = {"tiny-sdxl": (4, 8), "tiny-flux2": (128, 16)}.get(model, (16, 8))
    assert shapes == [(1, channels, spec.height // factor, spec.width // factor)]
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))
    assert len(result.steps) == spec.steps


@pytest.mark.parametrize("model", ["tiny-flux-dev", "tiny-sdxl"])
def test_noise_given_as_latents_gives_the_same_pixels(runtimes, run, job_for, model):
    spec = job_for(model)
    noise = torch.from_numpy(NoiseStream(spec.seed).normal((1, 4 if model == "tiny-sdxl" else 16, 8, 8)))
    if model != "tiny-sdxl":  # FLUX packs them: 2 × 2 patches, channels first
        noise = noise.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(1, 16, 64)
    noise = noise.to(runtimes(model).device)
    theirs = reference.picture(model, spec, latents=noise)
    np.testing.assert_array_equal(np.array(run(runtimes(model), spec).images[0]), np.array(theirs))


@pytest.mark.parametrize("model", FAMILIES)
def test_pixels_are_within_a_level_of_diffusers_with_a_generator(runtimes, run, job_for, model):
    spec = job_for(model, seed=123)
    mine = np.array(run(runtimes(model), spec).images[0]).astype(int)
    theirs = np.array(reference.picture(model, spec, generator=torch.Generator().manual_seed(123))).astype(int)
    assert np.abs(mine - theirs).max() <= 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_karras_schedulers_x0_is_its_own(prediction):
    from diffusers import EulerDiscreteScheduler

    from locara_sidecar.engine.torch_engine.denoising.hooks import observed_steps

    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing", prediction_type=prediction)
    scheduler.set_timesteps(4)
    clean, noise = torch.full((1, 2), 0.25), torch.full((1, 2), -1.5)
    sample, seen = clean + noise * scheduler.sigmas[0], []
    with observed_steps(scheduler, lambda step, steps, x0: seen.append((step, steps, x0))):
        for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            output = noise
            if prediction == "v_prediction":
                output = (noise - sigma * clean) / (sigma**2 + 1) ** 0.5
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
    assert [(step, steps) for step, steps, _ in seen] == [(k, 4) for k in range(1, 5)]
    for _, _, x0 in seen:
        torch.testing.assert_close(x0, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solvers_x0_is_its_own(order):
    """In a variance-preserving process, the value divided by the picture's share is no longer sample - noise."""
    from diffusers import DPMSolverMultistepScheduler

    from locara_sidecar.engine.torch_engine.denoising.hooks import observed_steps

    scheduler = DPMSolverMultistepScheduler(timestep_spacing="trailing", solver_order=order)
    scheduler.set_timesteps(4)
    clean, noise = torch.full((1, 2), 0.25), torch.full((1, 2), -1.5)
    share = 1 / (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    sample, seen = share * (clean + noise * scheduler.sigmas[0]), []
    with observed_steps(scheduler, lambda step, steps, x0: seen.append((step, steps, x0))):
        for timestep in scheduler.timesteps:
            sample = scheduler.step(noise, timestep, sample, return_dict=False)[0]
    assert [(step, steps) for step, steps, _ in seen] == [(k, 4) for k in range(1, 5)]
    for _, _, x0 in seen:
        torch.testing.assert_close(x0, clean, rtol=1e-3, atol=1e-3)


def test_longer_texts_and_shifts_that_grow_with_the_size(runtimes, run, job_for):
    """FLUX dev's shift depends on the number of tokens: in a larger picture the same steps have other sigmas."""
    sigmas = []
    for side in (64, 128):
        run(runtimes("tiny-flux-dev"), job_for("tiny-flux-dev", width=side, height=side))
        sigmas.append(runtimes("tiny-flux-dev").opened.family.scheduler.sigmas.tolist())
    assert sigmas[0][0] == sigmas[1][0] == 1.0
    assert sigmas[0][1] < sigmas[1][1]


def test_float16_decodes_sdxl_outside_its_narrow_range(tmp_path, run, job_for):
    """SDXL's autoencoder overflows in float16; here a convolution multiplies beyond its range."""
    from locara_sidecar.engine.torch_engine import runtime as torch_runtime

    runtime = torch_runtime.create(str(tmp_path))
    run(runtime, job_for("tiny-sdxl", precision="float16"))
    family = runtime.opened.family
    types = []
    conv = family.module("vae").decoder.conv_in
    hook = conv.register_forward_pre_hook(lambda module, args: types.append(module.weight.dtype))
    try:
        result = run(runtime, job_for("tiny-sdxl", precision="float16"))
        assert runtime.preview(result.steps[0].x0, "full", 64) is not None
    finally:
        hook.remove()
    assert types == [torch.float32, torch.float32]
    assert family.module("vae").dtype == torch.float16


def test_whatever_libraries_raise_as_a_component_is_built_names_its_file(runtimes, run, job_for, monkeypatch):
    """Configurations are checked earlier, so this covers what nobody has thought of."""
    run(runtimes("tiny-flux"), job_for("tiny-flux", steps=1))
    family = runtimes("tiny-flux").opened.family
    for error in diffusers_family._WRONG:
        raised = error.__new__(error)
        monkeypatch.setattr(diffusers_family.weights, "shell", Mock(side_effect=raised))
        with pytest.raises(EngineError, match=r"vae/config\.json cannot be used") as told:
            family._shell("vae")
        assert told.value.kind == "IntegrityError"
        assert told.value.__cause__ is raised
