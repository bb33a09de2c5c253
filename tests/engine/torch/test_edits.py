"""Edits give what diffusers' pipelines make of a picture, and the host's own pixels where the mask is black."""

import numpy as np
import pytest
import torch

from locara_sidecar.engine.drawing import source
from support import diffusers_reference as reference
from support.diffusers_reference import IMAGE, INPAINT
from support.edits import edit, patches, photo, stencil

pytestmark = pytest.mark.torch

STRENGTH = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-sdxl", "tiny-z-image"]


@pytest.fixture(autouse=True)
def _quiet(runtimes, run, job_for):
    """Request the runtime first: its settings keep the libraries quiet."""
    run(runtimes("tiny-flux"), job_for("tiny-flux", steps=1))


def channels(model):
    return 4 if model == "tiny-sdxl" else 16


@pytest.mark.parametrize("strength", [0.6, 1.0, 0.3])
@pytest.mark.parametrize("model", STRENGTH)
def test_image_to_image_equals_diffusers_to_the_bit(runtimes, run, job_for, model, strength):
    spec = job_for(model, steps=5, width=96, edit=edit(photo(96), strength=strength))
    result = run(runtimes(model), spec)
    with reference.drawing(model, IMAGE, spec.seed) as shapes:
        theirs = reference.picture(model, spec, IMAGE, image=photo(96), strength=strength)
    assert shapes == [(1, channels(model), 8, 12)] * 2  # first the encoded picture, then the noise
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))


@pytest.mark.parametrize(
    ("strength", "mask"), [(0.6, stencil()), (1.0, patches(stencil()))], ids=["off the grid", "on the grid"]
)
@pytest.mark.parametrize("model", STRENGTH)
def test_inpainting_equals_diffusers_to_the_bit_and_the_source_outside_the_mask(
    runtimes, run, job_for, model, strength, mask
):
    """The same mask for both, aligned with the grid; off the grid diffusers would leave white unchanged."""
    spec = job_for(model, steps=5, edit=edit(mask=mask, strength=strength))
    result = run(runtimes(model), spec)
    arguments = {"image": photo(), "mask_image": patches(mask), "strength": strength}
    with reference.drawing(model, INPAINT, spec.seed) as shapes:
        if model == "tiny-sd3":  # its pipeline forgets the autoencoder's shift when decoding
            latent = reference.picture(model, spec, INPAINT, "latent", **arguments)[None]
            pipe = reference.pipeline(model, INPAINT)
            raw = latent / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
            with torch.no_grad():
                theirs = pipe.image_processor.postprocess(pipe.vae.decode(raw).sample)[0]
        else:
            theirs = reference.picture(model, spec, INPAINT, **arguments)
    assert shapes[:2] == [(1, channels(model), 8, 8)] * 2
    expected = np.where(np.array(mask)[..., None] == 255, np.array(theirs), np.array(photo()))
    np.testing.assert_array_equal(np.array(result.images[0]), expected)
    assert (np.array(theirs) != np.array(photo())).any()  # diffusers by itself changes what is not masked


@pytest.mark.parametrize("mask", [None, stencil()], ids=["image to image", "inpainting"])
@pytest.mark.parametrize("model", ["tiny-flux", "tiny-sdxl"])
def test_edits_are_within_a_level_of_diffusers_with_a_generator(runtimes, run, job_for, model, mask):
    spec = job_for(model, seed=11, edit=edit(mask=mask))
    mine = np.array(run(runtimes(model), spec).images[0]).astype(int)
    way, arguments = (IMAGE, {}) if mask is None else (INPAINT, {"mask_image": patches(mask)})
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
    assert shapes == [(1, 16, 6, 12)]  # the picture is encoded without random numbers
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))
    from_text = run(runtimes(model), asked)
    assert from_text.images[0].tobytes() != result.images[0].tobytes()
