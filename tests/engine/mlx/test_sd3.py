"""A whole run on MLX gives diffusers' result, and the two engines agree."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch

from locara_sidecar.engine.drawing.noise import NoiseStream
from support.parity import TOLERANCES, error, pixel_difference
from support.runtimes import make_runtime

pytestmark = [pytest.mark.mlx, pytest.mark.torch]

VARIANTS = {
    "guided": {},
    "unguided": {"guidance": 1.0},
    "negative prompt": {"negative_prompt": "the yellow cat", "guidance": 7.0},
    "oblong, one step": {"width": 96, "height": 32, "steps": 1},
    "long text": {"prompt": "a red circle and " * 40},
    "decoded in strips, which is the same": {"width": 256, "height": 256, "steps": 1, "tiling": "on"},
}


@pytest.fixture(scope="module")
def pipeline(tiny_sd3):
    return pipeline_of(tiny_sd3)


def pipeline_of(folder, **parts):
    from diffusers import StableDiffusion3Pipeline

    made = StableDiffusion3Pipeline.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True, **parts)
    made.set_progress_bar_config(disable=True)
    return made


def theirs(pipeline, job, output_type="pil"):
    noise = NoiseStream(job.seed).normal((1, 16, job.height // 8, job.width // 8))
    with torch.no_grad():
        return pipeline(
            job.prompt,
            negative_prompt=job.negative_prompt,
            width=job.width,
            height=job.height,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
            max_sequence_length=job.model.max_sequence_length,
            output_type=output_type,
            latents=torch.from_numpy(noise),
        ).images


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_latents_and_pixels_are_those_of_diffusers(runtime, run, spec, pipeline, changes):
    job = spec(**changes)
    result = run(runtime, job)
    latent = theirs(pipeline, job, "latent").permute(0, 2, 3, 1)
    assert error(result.steps[-1].x0, latent) < TOLERANCES["final latent"]
    assert pixel_difference(result.images[0], theirs(pipeline, job)[0]) <= TOLERANCES["final image"]


@pytest.mark.parametrize("text", ["", "a red circle", "the blue square and " * 30])
def test_embeddings_are_those_of_diffusers(runtime, run, spec, pipeline, text):
    run(runtime, spec(prompt="something that loads the encoders"))
    ours = runtime.opened.family.encode(text, 32)
    with torch.no_grad():
        tokens, _, pooled, _ = pipeline.encode_prompt(
            text, None, None, do_classifier_free_guidance=False, max_sequence_length=32
        )
    assert error(ours.tokens, tokens) < TOLERANCES["text encoder"]
    assert error(ours.pooled, pooled) < TOLERANCES["text encoder"]


def test_every_steps_x0_is_that_of_the_torch_engine(runtime, run, spec, tmp_path):
    job = spec(steps=4, guidance=3.0)
    ours, torchs = run(runtime, job), run(make_runtime("torch", tmp_path), job)
    assert [step.step for step in ours.steps] == [step.step for step in torchs.steps]
    for mine, reference in zip(ours.steps, torchs.steps, strict=True):
        assert error(mine.x0, reference.x0.permute(0, 2, 3, 1)) < TOLERANCES["final latent"]
    assert pixel_difference(ours.images[0], torchs.images[0]) <= TOLERANCES["final image"]


def test_without_a_third_encoder_zeros_stand_for_it(copy, run, spec):
    index = copy / "model_index.json"
    parts = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps(json.loads(index.read_text()) | parts))
    job = spec(path=str(copy), max_sequence_length=3)
    result = run(make_runtime("mlx", copy), job)
    reference = theirs(pipeline_of(copy, text_encoder_3=None, tokenizer_3=None), job)[0]
    assert pixel_difference(result.images[0], reference) <= TOLERANCES["final image"]


def test_200_steps_have_their_modulation_made_in_parts(runtime, run, spec, pipeline, monkeypatch):
    from locara_sidecar.engine.mlx_engine.families import sampling

    monkeypatch.setattr(sampling, "_STEPS_AT_ONCE", 3)
    job = spec(steps=7)
    assert error(run(runtime, job).steps[-1].x0, theirs(pipeline, job, "latent").permute(0, 2, 3, 1)) < 1e-3


def test_a_folder_of_bfloat16_is_computed_in_the_type_asked_for(runtime, run, spec):
    run(runtime, spec())
    assert runtime.opened.family.module("transformer").proj_out.weight.dtype == mx.float32
    result = run(runtime, spec(precision="bfloat16"))
    assert runtime.opened.family.module("transformer").proj_out.weight.dtype == mx.bfloat16
    assert result.summary.settled.precision == "bfloat16"
    assert np.isfinite(np.array(result.steps[-1].x0)).all()
