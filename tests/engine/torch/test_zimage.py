"""Z-Image in float16 on torch: diffusers' own transformer overflows there; the engine prevents that."""

import copy

import pytest
import torch

from locara_sidecar.engine.torch_engine.families.z_image import fit_into_float16
from support.zimage import WIDE, boisterous, made

pytestmark = pytest.mark.torch


def answer(model, dtype):
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn((4, 1, 8, 12), generator=generator).to(dtype)
    tokens = torch.randn((7, 24), generator=generator)
    with torch.no_grad():
        return model([latent], torch.tensor([0.5]), [tokens.to(dtype)], return_dict=False)[0][0].float()


@pytest.mark.parametrize("wide", WIDE)
def test_in_float16_numbers_beyond_its_range_do_not_overflow(wide):
    model = boisterous(wide)
    expected = answer(model, torch.float32)
    alone = copy.deepcopy(model).half()
    assert not torch.isfinite(answer(alone, torch.float16)).all()
    fitted = model.half()
    fit_into_float16(fitted)
    got = answer(fitted, torch.float16)
    assert float((got - expected).abs().max() / expected.abs().max()) < 0.02


def test_what_keeps_float16_in_its_range_changes_next_to_nothing_where_nothing_overflows():
    model = made()
    expected = answer(model, torch.float32)
    fit_into_float16(model)  # in float32, dividing by a power of two is exact
    torch.testing.assert_close(answer(model, torch.float32), expected, rtol=1e-5, atol=1e-5)
