"""FLUX.2 [klein] on torch: float16, and the layers of its text encoder that are not loaded."""

import copy

import pytest
import torch
from diffusers import Flux2KleinPipeline

from locara_sidecar.engine.torch_engine.families.flux2 import fit_into_float16
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
    (part,) = [part for part in family.parts if part.role == "encoder"]
    assert part.parameters == sum(parameter.numel() for parameter in encoder.parameters())
