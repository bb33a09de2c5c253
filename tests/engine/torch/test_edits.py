"""Edits: what diffusers' pipelines make of a picture, and the host's own pixels where the mask is black."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from locara_sidecar.engine import linear_preview, source
from locara_sidecar.engine.frames import EditSpec
from locara_sidecar.engine.runtime import EngineFault
from support import diffusers_reference as reference
from support.diffusers_reference import IMAGE, INPAINT

pytestmark = pytest.mark.torch

STRENGTH = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-sdxl"]
ALL = [*STRENGTH, "tiny-flux-kontext"]


@pytest.fixture(autouse=True)
def _quiet(runtimes, run, job_for):
    """The runtime first: its settings keep the libraries quiet."""
    run(runtimes("tiny-flux"), job_for("tiny-flux", steps=1))


def photo(width=64, height=64):
    pixels = linear_preview.synthetic_pictures(1, max(width, height), seed=3)[0, :, :height, :width]
    return Image.fromarray((pixels.transpose(1, 2, 0) * 127.5 + 127.5).astype(np.uint8))


def stencil(width=64, height=64):
    mask = Image.new("L", (width, height))
    mask.paste(255, (16, 8, 50, 41))  # not on the grid of the latents
    return mask


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def edit(image=None, mask=None, strength=0.6):
    return EditSpec(image=png(image or photo()), mask=None if mask is None else png(mask), strength=strength)


def channels(model):
    return 4 if model == "tiny-sdxl" else 16


@pytest.mark.parametrize("strength", [0.6, 1.0, 0.3])
@pytest.mark.parametrize("model", STRENGTH)
def test_image_to_image_equals_diffusers_to_the_bit(runtimes, run, job_for, model, strength):
    spec = job_for(model, steps=5, width=96, edit=edit(photo(96), strength=strength))
    result = run(runtimes(model), spec)
    with reference.drawing(model, IMAGE, spec.seed) as shapes:
        theirs = reference.picture(model, spec, IMAGE, image=photo(96), strength=strength)
    assert shapes == [(1, channels(model), 8, 12)] * 2  # the encoded picture, then the noise
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("model", STRENGTH)
def test_inpainting_equals_diffusers_to_the_bit_and_the_source_outside_the_mask(
    runtimes, run, job_for, model, strength
):
    spec = job_for(model, steps=5, edit=edit(mask=stencil(), strength=strength))
    result = run(runtimes(model), spec)
    arguments = {"image": photo(), "mask_image": stencil(), "strength": strength}
    with reference.drawing(model, INPAINT, spec.seed) as shapes:
        if model == "tiny-sd3":  # whose pipeline forgets the autoencoder's shift when it decodes
            latent = reference.picture(model, spec, INPAINT, "latent", **arguments)[None]
            pipe = reference.pipeline(model, INPAINT)
            raw = latent / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
            with torch.no_grad():
                theirs = pipe.image_processor.postprocess(pipe.vae.decode(raw).sample)[0]
        else:
            theirs = reference.picture(model, spec, INPAINT, **arguments)
    assert shapes[:2] == [(1, channels(model), 8, 8)] * 2
    expected = np.where(np.array(stencil())[..., None] == 255, np.array(theirs), np.array(photo()))
    np.testing.assert_array_equal(np.array(result.images[0]), expected)
    assert (np.array(theirs) != np.array(photo())).any()  # diffusers alone changes what is not masked


@pytest.mark.parametrize("mask", [None, stencil()], ids=["image to image", "inpainting"])
@pytest.mark.parametrize("model", ["tiny-flux", "tiny-sdxl"])
def test_edits_are_within_a_level_of_diffusers_with_a_generator(runtimes, run, job_for, model, mask):
    spec = job_for(model, seed=11, edit=edit(mask=mask))
    mine = np.array(run(runtimes(model), spec).images[0]).astype(int)
    way, arguments = (IMAGE, {}) if mask is None else (INPAINT, {"mask_image": mask})
    arguments |= {"image": photo(), "strength": 0.6, "generator": torch.Generator().manual_seed(11)}
    theirs = np.array(source.composite(source.Source(photo(), mask), reference.picture(model, spec, way, **arguments)))
    assert np.abs(mine - theirs).max() <= 1


def test_kontext_follows_an_instruction_at_the_pictures_size(runtimes, run, job_for):
    model = "tiny-flux-kontext"
    spec = job_for(model, width=0, height=0, edit=edit(photo(96, 48), strength=None))
    result = run(runtimes(model), spec)
    assert result.images[0].size == (96, 48)
    asked = job_for(model, width=96, height=48)
    with reference.drawing(model, IMAGE, spec.seed) as shapes:
        theirs = reference.picture(model, asked, IMAGE, image=photo(96, 48))
    assert shapes == [(1, 16, 6, 12)]  # the picture is encoded without a draw
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))
    from_text = run(runtimes(model), asked)
    assert from_text.images[0].tobytes() != result.images[0].tobytes()


def test_kontext_takes_no_mask(runtimes, run, job_for):
    with pytest.raises(EngineFault) as caught:
        run(runtimes("tiny-flux-kontext"), job_for("tiny-flux-kontext", edit=edit(mask=stencil(), strength=None)))
    assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", "$.mask")


@pytest.mark.parametrize(
    ("model", "steps", "strength", "run_steps"),
    [
        ("tiny-sd3", 10, 0.6, 6),
        ("tiny-sd3", 4, 0.6, 3),
        ("tiny-flux", 4, 1.0, 4),
        ("tiny-flux", 4, 0.01, 1),
        ("tiny-flux", 1, 0.6, 1),
        ("tiny-sdxl", 4, 0.6, 2),
        ("tiny-sdxl", 4, 0.01, 1),
        ("tiny-sdxl", 1, 0.5, 1),
        ("tiny-sdxl", 49, 0.001, 1),
        ("tiny-sd3", 9, 1e-17, 1),
    ],
)
@pytest.mark.parametrize("mask", [None, stencil()], ids=["image to image", "inpainting"])
def test_strength_decides_how_many_steps_really_run(runtimes, run, job_for, model, steps, strength, run_steps, mask):
    result = run(runtimes(model), job_for(model, steps=steps, edit=edit(mask=mask, strength=strength)))
    assert [(step.step, step.steps) for step in result.steps] == [(k, run_steps) for k in range(1, run_steps + 1)]


@pytest.mark.parametrize("model", ALL)
def test_an_edit_leaves_nothing_behind_for_the_next_job(runtimes, run, job_for, model):
    before = run(runtimes(model), job_for(model)).images[0].tobytes()
    run(runtimes(model), job_for(model, edit=edit(strength=None if "kontext" in model else 0.3)))
    after = run(runtimes(model), job_for(model))
    assert after.images[0].tobytes() == before
    assert [step.steps for step in after.steps] == [3] * 3


def test_image_k_of_an_edit_is_the_edit_of_seed_plus_k_minus_1(runtimes, run, job_for):
    together = run(runtimes("tiny-sd3"), job_for("tiny-sd3", count=2, seed=40, edit=edit(mask=stencil())))
    alone = [run(runtimes("tiny-sd3"), job_for("tiny-sd3", seed=seed, edit=edit(mask=stencil()))) for seed in (40, 41)]
    assert [image.tobytes() for image in together.images] == [result.images[0].tobytes() for result in alone]


def test_the_sources_size_is_the_jobs_where_none_is_named(runtimes, run, job_for):
    result = run(runtimes("tiny-sd3"), job_for("tiny-sd3", width=0, height=0, edit=edit(photo(96, 32))))
    assert result.images[0].size == (96, 32)
    assert (result.summary.settled.width, result.summary.settled.height) == (96, 32)
    resized = run(runtimes("tiny-sd3"), job_for("tiny-sd3", width=48, height=48, edit=edit(photo(96, 32))))
    assert resized.images[0].size == (48, 48)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (EditSpec(image=b"nothing", strength=0.5), "InvalidImage"),
        (edit(photo(72, 40)), "InvalidParams"),
        (edit(mask=Image.new("L", (32, 32))), "InvalidImage"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_loaded(tmp_path, run, job_for, given, kind):
    from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

    spec, events = job_for("tiny-sd3", width=0, height=0, edit=given), []
    with pytest.raises(EngineFault) as caught:
        run(TorchRuntime(str(tmp_path)), spec, on_event=events.append)
    assert (caught.value.kind, events) == (kind, [])


@pytest.mark.parametrize("mask", [None, stencil()], ids=["image to image", "inpainting"])
@pytest.mark.parametrize("model", STRENGTH)
def test_a_cancel_while_the_source_is_encoded_changes_nothing_after_it(runtimes, run, job_for, control, model, mask):
    spec = job_for(model, edit=edit(mask=mask))
    expected = run(runtimes(model), spec).images[0].tobytes()
    stopped = run(runtimes(model), spec, control("denoising", 3))  # the encoder's first convolutions
    assert stopped.cancelled
    assert not stopped.steps
    assert run(runtimes(model), spec).images[0].tobytes() == expected


def test_a_tiled_edit_encodes_and_decodes_in_tiles(runtimes, run, job_for):
    spec = {"width": 512, "height": 512, "steps": 1, "edit": edit(photo(512, 512), strength=0.3)}
    runtime = runtimes("tiny-sd3")
    plain, tiled = (run(runtime, job_for("tiny-sd3", tiling=tiling, **spec)) for tiling in ("off", "on"))
    assert plain.images[0].tobytes() != tiled.images[0].tobytes()
    assert run(runtime, job_for("tiny-sd3", tiling="off", **spec)).images[0].tobytes() == plain.images[0].tobytes()
    difference = np.array(plain.images[0]).astype(int) - np.array(tiled.images[0])
    assert np.abs(difference).mean() < 8
