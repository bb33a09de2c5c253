"""Previews show what the picture will be."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from locara_sidecar.engine import linear_preview
from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

pytestmark = pytest.mark.torch


def correlation(left, right):
    return np.corrcoef(np.asarray(left, float).ravel(), np.asarray(right, float).ravel())[0, 1]


def test_a_linear_preview_resembles_the_decoded_picture(runtime, run, spec):
    family = run(runtime, spec(mode="linear")) and runtime._opened.family
    picture = linear_preview.synthetic_pictures(20, 128, seed=5)[-1]
    vae = family.module("vae")
    with torch.no_grad():
        raw = vae.encode(torch.from_numpy(picture)[None]).latent_dist.mode()
    x0 = (raw - vae.config.shift_factor) * vae.config.scaling_factor
    full, decoder = runtime.preview(x0, "full", 128)
    linear, kind = runtime.preview(x0, "linear", 128)
    assert (decoder, kind, linear.size) == ("full", "linear", full.size)
    blocks = [image.resize((16, 16), Image.Resampling.BOX) for image in (linear, full)]
    assert correlation(*blocks) > 0.7
    assert correlation(blocks[0], (picture.reshape(3, 16, 8, 16, 8).mean((2, 4)).transpose(1, 2, 0))) > 0.9


@pytest.mark.parametrize("mode", ["linear", "full"])
@pytest.mark.parametrize("max_side", [16, 40, 64, 256])
def test_a_preview_keeps_the_shape_and_the_longest_side_allowed(runtime, run, spec, mode, max_side):
    x0 = run(runtime, spec(width=96, height=48, steps=1)).steps[-1].x0
    picture, decoder = runtime.preview(x0, mode, max_side)
    assert (decoder, picture.mode) == (mode, "RGB")
    assert picture.size == (min(max_side, 96), min(max_side, 96) // 2)


def test_the_full_preview_of_the_last_step_is_the_picture(runtime, run, spec):
    result = run(runtime, spec())
    picture, _ = runtime.preview(result.steps[-1].x0, "full", 256)
    difference = np.asarray(picture, int) - np.asarray(result.images[0], int)
    assert np.abs(difference).max() <= 1


def test_modes_that_the_model_has_not_give_none(runtime, run, spec, tmp_path):
    x0 = run(runtime, spec()).steps[-1].x0
    assert runtime.preview(x0, "tiny", 64) is None
    assert runtime.preview(x0, "off", 64) is None
    assert TorchRuntime(str(tmp_path)).preview(x0, "linear", 64) is None


def test_a_matrix_beside_the_model_is_used_instead_of_fitting(tmp_path, copy, run, spec):
    red = {"format": linear_preview.FORMAT, "latentChannels": 16, "matrix": [[0, 0, 0]] * 16, "bias": [1, -1, -1]}
    (copy / linear_preview.FILE_NAME).write_text(json.dumps(red))
    cold = TorchRuntime(str(tmp_path))
    x0 = run(cold, spec(path=str(copy), mode="linear")).steps[-1].x0
    assert cold.preview(x0, "linear", 64)[0].getcolors() == [(64 * 64, (255, 0, 0))]


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
    cold = TorchRuntime(str(tmp_path))
    x0 = run(cold, spec(path=str(copy), mode="tiny")).steps[-1].x0
    picture, decoder = cold.preview(x0, "tiny", 48)
    assert (picture.size, decoder) == ((48, 48), "tiny")


class TestLinearPreview:
    """The NumPy part alone."""

    def test_a_linear_encoder_is_recovered(self):
        pictures = linear_preview.synthetic_pictures(4, 64)
        means = pictures.reshape(4, 3, 8, 8, 8, 8).mean(axis=(3, 5))
        mix = np.random.default_rng(1).normal(size=(3, 6))
        latents = (np.einsum("nchw,cd->ndhw", means, mix) + 0.3).astype(np.float32)
        fitted = linear_preview.fit(latents, pictures)
        assert fitted.residual < 1e-4
        wanted = np.clip(np.moveaxis(means[0], 0, -1) * 127.5 + 127.5, 0, 255)
        assert np.abs(fitted.apply(latents[0]).astype(float) - wanted).max() <= 1

    def test_what_is_stored_is_read_back(self, tmp_path):
        fitted = linear_preview.LinearPreview(np.ones((4, 3), np.float32) / 3, np.zeros(3, np.float32), 0.1)
        (tmp_path / linear_preview.FILE_NAME).write_text(json.dumps(fitted.to_json()))
        again = linear_preview.read(tmp_path, 4)
        np.testing.assert_allclose(again.matrix, fitted.matrix, atol=1e-5)
        assert linear_preview.read(tmp_path, 16) is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '"x"'])
    def test_what_is_no_stored_matrix_is_passed_over(self, tmp_path, text):
        (tmp_path / linear_preview.FILE_NAME).write_text(text)
        assert linear_preview.read(tmp_path, 4) is None

    def test_synthetic_pictures_are_the_same_every_time_and_in_range(self):
        first, second = (linear_preview.synthetic_pictures(3, 64) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert np.abs(first).max() <= 1
        assert first.std() > 0.2
