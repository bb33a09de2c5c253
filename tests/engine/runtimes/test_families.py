"""Every kind of model: what its steps report, what previews show, the effect of its texts and numbers."""

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine.previews import linear_preview
from support.latents import encoded
from support.runtimes import staged

DISTILLED = ["tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl", "tiny-z-image", "tiny-flux2"]


def test_every_step_predicts_a_picture_and_the_last_one_the_result(runtimes, run, job_for, model):
    result = run(runtimes(model), job_for(model, steps=4, width=96))
    assert [(step.step, step.steps) for step in result.steps] == [(k, 4) for k in range(1, 5)]
    channels = {"tiny-sdxl": 4, "tiny-flux2": 32}.get(model, 16)
    assert {frozenset(step.x0.shape) for step in result.steps} == {frozenset((1, channels, 8, 12))}
    assert {str(step.x0.dtype).rpartition(".")[2] for step in result.steps} == {"float32"}
    last, _ = runtimes(model).preview(result.steps[-1].x0, "full", 256)
    assert np.abs(np.array(last).astype(int) - np.array(result.images[0])).max() <= 1


@pytest.mark.quick_cases("torch", "tiny-sdxl-tiny", "tiny-sd3-full")
@pytest.mark.parametrize("mode", ["linear", "tiny", "full"])
def test_previews_change_no_byte(runtimes, run, job_for, model, mode):
    shown = []

    def look(event):
        if hasattr(event, "x0"):
            shown.append(runtimes(model).preview(event.x0, mode, 64))

    without = run(runtimes(model), job_for(model))
    with_previews = run(runtimes(model), job_for(model, mode=mode), on_event=look)
    assert without.images[0].tobytes() == with_previews.images[0].tobytes()
    if mode == "tiny" and model != "tiny-flux":  # the only fixture with such a decoder
        assert shown == [None] * 3
    else:
        assert {(picture.size, decoder) for picture, decoder in shown} == {((64, 64), mode)}


def test_a_linear_preview_resembles_what_its_latent_decodes_to(engine, runtimes, run, job_for, model):
    """The latent is encoded, not sampled, because a model with random weights samples noise."""
    runtime = runtimes(model)
    run(runtime, job_for(model, mode="linear"))
    drawn = linear_preview.synthetic_pictures(20, 128, seed=5)[-1]
    x0 = encoded(engine, runtime.opened.family.module("vae"), drawn)
    (linear, kind), (full, _) = (runtime.preview(x0, mode, 128) for mode in ("linear", "full"))
    assert (kind, linear.size) == ("linear", full.size)
    small = [np.asarray(image.resize((16, 16), Image.Resampling.BOX), float).ravel() for image in (linear, full)]
    assert np.corrcoef(*small)[0, 1] > 0.7


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        *((model, "bfloat16") for model in DISTILLED),
        *((model, "float16") for model in ("tiny-sd3", *DISTILLED)),
    ],
)
def test_half_precision_gives_nearly_the_same_picture(cold, runtimes, run, job_for, model, precision):
    expected = np.asarray(run(runtimes(model), job_for(model)).images[0], float)
    half = run(cold, job_for(model, precision=precision))
    assert half.summary.settled.precision == precision
    assert np.corrcoef(expected.ravel(), np.asarray(half.images[0], float).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("model", ["tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-z-image", "tiny-flux2"])
def test_a_distilled_model_reads_no_negative_prompt(runtimes, run, job_for, monkeypatch, model):
    runtime = runtimes(model)
    plain = run(runtime, job_for(model, guidance=3.0))
    family, read = runtime.opened.family, []
    encode = family.encode
    monkeypatch.setattr(family, "encode", lambda text, length: read.append(text) or encode(text, length))
    other = run(runtime, job_for(model, guidance=3.0, negative_prompt="a yellow dog"))
    assert read == []
    assert plain.images[0].tobytes() == other.images[0].tobytes()


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("tiny-sd3", True),
        ("tiny-flux-dev", True),
        ("tiny-flux", False),
        ("tiny-sdxl", True),
        ("tiny-z-image", False),
        ("tiny-flux2", False),
    ],
)
def test_guidance_steers_the_models_that_have_it_and_no_other(runtimes, run, job_for, model, changes):
    first, second = (run(runtimes(model), job_for(model, guidance=g)).images[0].tobytes() for g in (1.5, 6.0))
    assert (first != second) == changes


@pytest.mark.quick_cases("torch-tiny-flux", "mlx-tiny-sd3")
@pytest.mark.parametrize("model", DISTILLED)
def test_the_picture_is_the_same_where_every_component_leaves(cold, runtimes, run, job_for, model):
    expected = run(runtimes(model), job_for(model)).images[0].tobytes()
    staged(cold, encoders_leave=True, alone=True, denoiser_leaves=True)
    assert run(cold, job_for(model)).images[0].tobytes() == expected
    assert set(cold.opened.family._loaded) == {"vae"}


def test_image_k_of_count_is_the_image_of_seed_plus_k_minus_1(runtimes, run, job_for, model):
    together = run(runtimes(model), job_for(model, count=2, seed=40)).images
    alone = [run(runtimes(model), job_for(model, seed=seed)).images[0] for seed in (40, 41)]
    assert [image.tobytes() for image in together] == [image.tobytes() for image in alone]
    assert together[0].tobytes() != together[1].tobytes()


def test_kontext_keeps_every_size_that_was_asked_for(runtimes, run, job_for):
    for width, height in ((32, 256), (80, 48)):
        result = run(runtimes("tiny-flux-kontext"), job_for("tiny-flux-kontext", width=width, height=height, steps=1))
        assert result.images[0].size == (width, height)
