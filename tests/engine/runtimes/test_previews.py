"""Previews show what the picture will be."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from locara_sidecar.engine import linear_preview
from support.fixture_models import MODELS


def correlation(left, right):
    return np.corrcoef(np.asarray(left, float).ravel(), np.asarray(right, float).ravel())[0, 1]


def test_a_linear_preview_resembles_the_decoded_picture(engine, runtime, run, spec):
    run(runtime, spec(mode="linear"))
    picture = linear_preview.synthetic_pictures(20, 128, seed=5)[-1]
    x0 = encoded(engine, runtime._opened.family.module("vae"), picture)
    full, decoder = runtime.preview(x0, "full", 128)
    linear, kind = runtime.preview(x0, "linear", 128)
    assert (decoder, kind, linear.size) == ("full", "linear", full.size)
    blocks = [image.resize((16, 16), Image.Resampling.BOX) for image in (linear, full)]
    assert correlation(*blocks) > 0.7
    assert correlation(blocks[0], (picture.reshape(3, 16, 8, 16, 8).mean((2, 4)).transpose(1, 2, 0))) > 0.9


def encoded(engine, vae, picture):
    """A picture (3, h, w) as the transformer's latent."""
    if engine == "torch":
        import torch

        with torch.no_grad():
            raw = vae.encode(torch.from_numpy(picture)[None]).latent_dist.mode()
        return (raw - vae.config.shift_factor) * vae.config.scaling_factor
    import mlx.core as mx

    return vae.from_raw(vae.encode(mx.array(picture.transpose(1, 2, 0)[None])).mean)


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


def test_modes_that_the_model_has_not_give_none(cold, runtime, run, spec):
    x0 = run(runtime, spec()).steps[-1].x0
    assert runtime.preview(x0, "tiny", 64) is None
    assert runtime.preview(x0, "off", 64) is None
    assert cold.preview(x0, "linear", 64) is None


@pytest.fixture
def with_tiny(copy):
    """The model with another fixture's tiny decoder beside it; their latents have the same shape."""
    shutil.copytree(MODELS / "tiny-flux" / "tiny_vae", copy / "tiny_vae")
    return copy


def test_a_tiny_decoder_beside_the_model_is_used(cold, with_tiny, run, spec):
    shown = []

    def look(event):
        if hasattr(event, "x0"):
            shown.append(cold.preview(event.x0, "tiny", 48))

    plain = run(cold, spec(path=str(with_tiny)))
    result = run(cold, spec(path=str(with_tiny), mode="tiny"), on_event=look)
    assert [(picture.size, decoder) for picture, decoder in shown] == [((48, 48), "tiny")] * 3
    assert len({picture.tobytes() for picture, _ in shown}) == 3
    assert result.images[0].tobytes() == plain.images[0].tobytes()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("diffusion_pytorch_model.safetensors", b"noise"),
        ("config.json", b"{"),
        ("config.json", b'{"decoder_block_out_channels": [4, 4, 4, 4]}'),
    ],
)
def test_a_broken_tiny_decoder_costs_only_its_previews(cold, with_tiny, run, spec, caplog, file, content):
    (with_tiny / "tiny_vae" / file).write_bytes(content)
    result = run(cold, spec(path=str(with_tiny), mode="tiny"))
    assert cold.preview(result.steps[-1].x0, "tiny", 48) is None
    assert result.images
    assert "the tiny preview decoder cannot be used" in caplog.text


def test_a_matrix_beside_the_model_is_used_instead_of_fitting(cold, copy, run, spec):
    red = {"format": linear_preview.FORMAT, "latentChannels": 16, "matrix": [[0, 0, 0]] * 16, "bias": [1, -1, -1]}
    (copy / linear_preview.FILE_NAME).write_text(json.dumps(red))
    x0 = run(cold, spec(path=str(copy), mode="linear")).steps[-1].x0
    assert cold.preview(x0, "linear", 64)[0].getcolors() == [(64 * 64, (255, 0, 0))]
