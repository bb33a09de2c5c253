"""Previews by a tiny decoder beside the model."""

import pytest
import torch

from support.runtimes import make_runtime

pytestmark = pytest.mark.torch


def test_a_tiny_decoder_beside_the_model_is_used(tmp_path, copy, run, spec):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    tiny.save_pretrained(copy / "tiny_vae")
    cold = make_runtime("torch", tmp_path)
    x0 = run(cold, spec(path=str(copy), mode="tiny")).steps[-1].x0
    picture, decoder = cold.preview(x0, "tiny", 48)
    assert (picture.size, decoder) == ((48, 48), "tiny")
