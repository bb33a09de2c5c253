"""The activation functions against those of the same names in transformers and diffusers."""

import mlx.core as mx
import pytest
import torch
from diffusers.models.activations import ACT2CLS
from transformers.activations import ACT2FN

from locara_sidecar.engine.folder import text_members
from locara_sidecar.engine.mlx_engine.activations import ACTIVATIONS
from support.parity import error

VALUES = torch.cat([torch.linspace(-12, 12, 481), torch.tensor([-80.0, 80.0])])


def test_every_name_that_a_configuration_may_have_is_run():
    assert set(ACTIVATIONS) == set(text_members.ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_it_gives_what_transformers_gives(name):
    assert error(ACTIVATIONS[name](mx.array(VALUES.numpy())), ACT2FN[name](VALUES)) < 1e-6


@pytest.mark.parametrize("name", ACT2CLS)
def test_it_gives_what_diffusers_gives(name):
    assert error(ACTIVATIONS[name](mx.array(VALUES.numpy())), ACT2CLS[name]()(VALUES)) < 1e-6
