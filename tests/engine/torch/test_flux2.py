"""FLUX.2 [klein] on torch: float16, and the layers of its text encoder that are not loaded."""

import copy

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from locara_sidecar.engine.torch_engine.families.flux2 import fit_into_float16
from locara_sidecar.ipc.frames import EditSpec
from support import diffusers_reference as reference
from support.edits import photo, png
from support.flux2 import WIDE, boisterous, made

pytestmark = pytest.mark.torch


def answer(model, dtype):
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn((1, 16, 4, 6), generator=generator)
    tokens = torch.randn((1, 7, 24), generator=generator)
    with torch.no_grad():
        return model(
            hidden_states=Flux2KleinPipeline._pack_latents(latent).to(dtype),
            encoder_hidden_states=tokens.to(dtype),
            timestep=torch.tensor([0.5]),
            img_ids=Flux2KleinPipeline._prepare_latent_ids(latent),
            txt_ids=Flux2KleinPipeline._prepare_text_ids(tokens),
            return_dict=False,
        )[0].float()


def differs(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("wide", WIDE)
def test_in_float16_numbers_beyond_its_range_do_not_overflow(wide):
    model = boisterous(wide)
    expected = answer(model, torch.float32)
    alone = answer(copy.deepcopy(model).half(), torch.float16)
    assert not differs(alone, expected) < 0.02, "diffusers clips or passes on what is not a number"
    fitted = model.half()
    fit_into_float16(fitted)
    assert differs(answer(fitted, torch.float16), expected) < 0.02


def test_what_keeps_float16_in_its_range_changes_next_to_nothing_where_nothing_overflows():
    model = made()
    expected = answer(model, torch.float32)
    fit_into_float16(model)  # in float32 a division by a power of two loses no digit
    torch.testing.assert_close(answer(model, torch.float32), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "read", "layers"), [("tiny-flux2", 27, 30), ("tiny-z-image", 3, 4)])
def test_layers_above_the_states_that_are_read_are_not_loaded(runtimes, run, job_for, model, read, layers):
    run(runtimes(model), job_for(model, steps=1, prompt="a text that no other test has"))
    family = runtimes(model).opened.family
    encoder = family.module("text_encoder")
    assert [bool(list(layer.parameters())) for layer in encoder.layers] == [k < read for k in range(layers)]
    assert {layer.attention_type for layer in encoder.layers[read:]} == {"full_attention"}, "transformers 5.0 asks"
    (part,) = [part for part in family.parts if part.role == "encoder"]
    assert part.parameters == sum(parameter.numel() for parameter in encoder.parameters())


REFERENCES = {
    "one": [(96, 64)],
    "of other sizes": [(96, 64), (70, 133), (64, 64)],
    "more than a megapixel": [(96, 64), (1200, 1000)],
    "longer than it may be once it is cropped or scaled": [(79, 632), (3104, 388)],
}


@pytest.mark.parametrize("sizes", REFERENCES.values(), ids=REFERENCES)
def test_references_are_seen_as_diffusers_has_it_to_the_bit(runtimes, run, job_for, sizes):
    """Each in its own size, whatever the job's, and in their order."""
    model, pictures = "tiny-flux2", [photo(*size) for size in sizes]
    given = EditSpec(images=[png(picture) for picture in pictures], listed=True)
    spec = job_for(model, width=80, height=112, edit=given)
    result = run(runtimes(model), spec)
    assert result.images[0].size == (80, 112)
    with reference.drawing(model, reference.IMAGE, spec.seed) as shapes:
        theirs = reference.picture(model, spec, reference.IMAGE, image=pictures)
    assert shapes == [(1, 128, 7, 5)]  # pictures are encoded without a draw
    np.testing.assert_array_equal(np.array(result.images[0]), np.array(theirs))
    alone = run(runtimes(model), job_for(model, width=80, height=112))
    assert alone.images[0].tobytes() != result.images[0].tobytes()
