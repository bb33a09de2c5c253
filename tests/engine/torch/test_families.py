"""Every family makes what diffusers makes, and shows on the way what it will be."""

import numpy as np
import pytest
import torch
from PIL import Image

from locara_sidecar.engine import linear_preview
from locara_sidecar.engine.noise import NoiseStream
from support import diffusers_reference as reference

pytestmark = pytest.mark.torch

FAMILIES = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl"]
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
    """The runtime first: its settings keep the libraries quiet."""
    run(runtimes("tiny-flux"), job_for("tiny-flux", steps=1))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("model", NEW)
def test_pixels_equal_diffusers_to_the_bit(runtimes, run, job_for, model, changes):
    spec = job_for(model, **changes)
    result = run(runtimes(model), spec)
    with reference.drawing(model, reference.TEXT, spec.seed) as shapes:
        theirs = reference.picture(model, spec)
    channels = 4 if model == "tiny-sdxl" else 16
    assert shapes == [(1, channels, spec.height // 8, spec.width // 8)]
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))
    assert len(result.steps) == spec.steps


@pytest.mark.parametrize("model", ["tiny-flux-dev", "tiny-sdxl"])
def test_noise_given_as_latents_gives_the_same_pixels(runtimes, run, job_for, model):
    spec = job_for(model)
    noise = torch.from_numpy(NoiseStream(spec.seed).normal((1, 4 if model == "tiny-sdxl" else 16, 8, 8)))
    if model != "tiny-sdxl":  # FLUX takes them packed: 2 × 2 patches, channels first
        noise = noise.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(1, 16, 64)
    theirs = reference.picture(model, spec, latents=noise)
    np.testing.assert_array_equal(np.array(run(runtimes(model), spec).images[0]), np.array(theirs))


@pytest.mark.parametrize("model", FAMILIES)
def test_pixels_are_within_a_level_of_diffusers_with_a_generator(runtimes, run, job_for, model):
    spec = job_for(model, seed=123)
    mine = np.array(run(runtimes(model), spec).images[0]).astype(int)
    theirs = np.array(reference.picture(model, spec, generator=torch.Generator().manual_seed(123))).astype(int)
    assert np.abs(mine - theirs).max() <= 1


@pytest.mark.parametrize("model", FAMILIES)
def test_every_step_predicts_a_picture_and_the_last_one_the_result(runtimes, run, job_for, model):
    result = run(runtimes(model), job_for(model, steps=4, width=96))
    assert [(step.step, step.steps) for step in result.steps] == [(k, 4) for k in range(1, 5)]
    channels = 4 if model == "tiny-sdxl" else 16
    assert {tuple(step.x0.shape) for step in result.steps} == {(1, channels, 8, 12)}
    assert {step.x0.dtype for step in result.steps} == {torch.float32}
    last, _ = runtimes(model).preview(result.steps[-1].x0, "full", 256)
    assert np.abs(np.array(last).astype(int) - np.array(result.images[0])).max() <= 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_karras_schedulers_x0_is_its_own(prediction):
    from diffusers import EulerDiscreteScheduler

    from locara_sidecar.engine.torch_engine.hooks import observed_steps

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


@pytest.mark.parametrize("mode", ["linear", "tiny", "full"])
@pytest.mark.parametrize("model", FAMILIES)
def test_previews_change_no_byte(runtimes, run, job_for, model, mode):
    shown = []

    def look(event):
        if hasattr(event, "x0"):
            shown.append(runtimes(model).preview(event.x0, mode, 64))

    without = run(runtimes(model), job_for(model))
    with_previews = run(runtimes(model), job_for(model, mode=mode), on_event=look)
    assert without.images[0].tobytes() == with_previews.images[0].tobytes()
    if mode == "tiny" and model != "tiny-flux":  # the one fixture that has such a decoder
        assert shown == [None] * 3
    else:
        assert {(picture.size, decoder) for picture, decoder in shown} == {((64, 64), mode)}


@pytest.mark.parametrize("model", FAMILIES)
def test_a_linear_preview_resembles_what_its_latent_decodes_to(runtimes, run, job_for, model):
    """Of a latent that was encoded, not sampled: a model of random weights samples noise."""
    runtime = runtimes(model)
    run(runtime, job_for(model, mode="linear"))
    vae = runtime._opened.family.module("vae")
    drawn = linear_preview.synthetic_pictures(20, 128, seed=5)[-1]
    with torch.no_grad():
        raw = vae.encode(torch.from_numpy(drawn)[None]).latent_dist.mode()
    x0 = (raw - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    linear, _ = runtime.preview(x0, "linear", 128)
    full, _ = runtime.preview(x0, "full", 128)
    small = [np.asarray(image.resize((16, 16), Image.Resampling.BOX), float).ravel() for image in (linear, full)]
    assert np.corrcoef(*small)[0, 1] > 0.7


@pytest.mark.parametrize("model", FAMILIES)
def test_half_precision_gives_nearly_the_same_picture(tmp_path, runtimes, run, job_for, model):
    from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

    expected = np.asarray(run(runtimes(model), job_for(model)).images[0], float)
    half = run(TorchRuntime(str(tmp_path)), job_for(model, precision="bfloat16"))
    assert np.corrcoef(expected.ravel(), np.asarray(half.images[0], float).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("model", NEW)
def test_a_distilled_model_reads_no_negative_prompt(runtimes, run, job_for, model):
    runtime = runtimes(model)
    plain = run(runtime, job_for(model, guidance=3.0))
    calls = []
    encoder = runtime._opened.family.module("text_encoder_2")
    hook = encoder.register_forward_pre_hook(lambda module, args: calls.append(1))
    try:
        other = run(runtime, job_for(model, guidance=3.0, negative_prompt="a yellow dog"))
    finally:
        hook.remove()
    assert calls == []
    assert plain.images[0].tobytes() == other.images[0].tobytes()


@pytest.mark.parametrize(("model", "changes"), [("tiny-flux-dev", True), ("tiny-flux", False), ("tiny-sdxl", False)])
def test_guidance_steers_the_model_that_has_it_embedded_and_no_other(runtimes, run, job_for, model, changes):
    first, second = (run(runtimes(model), job_for(model, guidance=g)).images[0].tobytes() for g in (1.5, 6.0))
    assert (first != second) == changes


def test_longer_texts_and_shifts_that_grow_with_the_size(runtimes, run, job_for):
    """FLUX dev's shift depends on the number of tokens: the same steps have other sigmas in a larger picture."""
    sigmas = []
    for side in (64, 128):
        run(runtimes("tiny-flux-dev"), job_for("tiny-flux-dev", width=side, height=side))
        sigmas.append(runtimes("tiny-flux-dev")._opened.family.scheduler.sigmas.tolist())
    assert sigmas[0][0] == sigmas[1][0] == 1.0
    assert sigmas[0][1] < sigmas[1][1]


def test_kontext_keeps_every_size_that_was_asked_for(runtimes, run, job_for):
    for width, height in ((32, 256), (80, 48), (256, 256)):
        result = run(runtimes("tiny-flux-kontext"), job_for("tiny-flux-kontext", width=width, height=height, steps=1))
        assert result.images[0].size == (width, height)
    for width in range(256, 2049, 16):  # what the pipeline computes from the area of the real model's sizes
        for height in range(256, 2049, 16):
            area, ratio = width * height, width / height
            assert (round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)) == (width, height)


def test_float16_decodes_sdxl_outside_its_narrow_range(tmp_path, run, job_for):
    """SDXL's autoencoder overflows in float16; made narrow here by a convolution that multiplies beyond it."""
    from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

    runtime = TorchRuntime(str(tmp_path))
    run(runtime, job_for("tiny-sdxl", precision="float16"))
    family = runtime._opened.family
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
