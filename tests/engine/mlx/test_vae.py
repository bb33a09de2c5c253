"""The autoencoder against diffusers' AutoencoderKL."""

import shutil

import mlx.core as mx
import pytest
import torch
from diffusers import AutoencoderKL
from mlx import nn

from locara_sidecar.engine.mlx_engine.autoencoders import vae
from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae
from locara_sidecar.engine.mlx_engine.strips import MlxStrips
from support.parity import TOLERANCES, build, error, randomise, save


def make(folder, **changes):
    levels = 3
    values = {
        "block_out_channels": (8, 16, 16), "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 4,
        "sample_size": 32, "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels, "scaling_factor": 0.4, "shift_factor": 0.1,
    }  # fmt: skip
    model = randomise(AutoencoderKL(**values | changes))
    return model, build(Vae, save(model, folder, "vae", shard="20KB"))


def last(value):
    """Convert diffusers' (B, C, h, w) to our layout."""
    return value.permute(0, 2, 3, 1)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


VARIANTS = [
    {},
    {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    {"mid_block_add_attention": False, "layers_per_block": 1},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_both_directions_give_what_diffusers_gives(tmp_path, changes):
    theirs, ours = make(tmp_path, **changes)
    pixels, latent = noise(1, 3, 40, 24), noise(1, theirs.config.latent_channels, 10, 6)
    with torch.no_grad():
        posterior = theirs.encode(pixels).latent_dist
        decoded = theirs.decode(latent).sample
    got = ours.encode(mx.array(last(pixels).numpy()))
    assert error(got.mean, last(posterior.mean)) < TOLERANCES["vae encode"]
    assert error(got.deviation, last(posterior.std)) < TOLERANCES["vae encode"]
    assert error(ours.decode(mx.array(last(latent).numpy())), last(decoded)) < TOLERANCES["vae decode"]


def of_so_many(monkeypatch, numbers):
    """Set how many numbers a strip has."""

    def made(pace):
        return MlxStrips(pace, numbers)

    monkeypatch.setattr(vae, "MlxStrips", made)


@pytest.mark.parametrize(("numbers", "size"), [(1, (1, 1)), (1, (20, 9)), (4000, (17, 26)), (1 << 22, (8, 8))])
@pytest.mark.parametrize("changes", VARIANTS)
def test_in_strips_both_directions_give_what_diffusers_gives(tmp_path, monkeypatch, size, numbers, changes):
    """Whatever the height of a strip: eight rows, a few or all."""
    theirs, ours = make(tmp_path, **changes)
    of_so_many(monkeypatch, numbers)
    latent, pixels = noise(1, theirs.config.latent_channels, *size), noise(1, 3, 4 * size[0] + 2, 4 * size[1])
    with torch.no_grad():
        posterior = theirs.encode(pixels).latent_dist
        decoded = theirs.decode(latent).sample
    assert error(ours.decode(mx.array(last(latent).numpy()), tiled=True), last(decoded)) < TOLERANCES["vae decode"]
    got = ours.encode(mx.array(last(pixels).numpy()), tiled=True)
    assert error(got.mean, last(posterior.mean)) < TOLERANCES["vae encode"]
    assert error(got.deviation, last(posterior.std)) < TOLERANCES["vae encode"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for the CPU with g++")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_a_bias_and_a_residual_are_added_at_once_to_the_same_bits(dtype):
    layer, strips = nn.Conv2d(8, 16, 3, padding=1), MlxStrips(lambda *_: None)
    layer.bias = mx.random.normal((16,), key=mx.random.key(1))
    layer.set_dtype(dtype)
    x, residual = (mx.random.normal(shape).astype(dtype) for shape in ((1, 10, 6, 8), (1, 7, 6, 16)))
    plain = residual + layer(x)[:, 2:9]
    mx.enable_compile()
    try:
        ours = strips.applied(layer, x, 2, 9, residual)
        mx.eval(ours)
    finally:
        mx.disable_compile()
    assert ours.dtype == dtype
    assert mx.array_equal(ours, plain).item()


def test_a_job_can_stop_between_strips(tmp_path, monkeypatch):
    _, ours = make(tmp_path)
    of_so_many(monkeypatch, 1)
    latent, calls = mx.array(last(noise(1, 4, 32, 8)).numpy()), []
    ours.decode(latent, lambda *state: calls.append(state), tiled=True)
    strips = len(calls)
    calls.clear()
    ours.decode(latent, lambda *state: calls.append(state))
    assert strips > 4 * len(calls)


def test_attention_over_many_pixels_is_the_same_in_parts(tmp_path, monkeypatch):
    _, ours = make(tmp_path)
    latent = mx.array(last(noise(1, 4, 10, 6)).numpy())
    whole = ours.decode(latent)
    monkeypatch.setattr(vae, "_SCORES", 7 * 60)
    assert error(ours.decode(latent), whole) < 1e-5


def test_raw_latents_and_the_transformers_are_inverse(tmp_path):
    _, ours = make(tmp_path)
    latent = mx.array(noise(1, 2, 2, 4).numpy())
    assert error(ours.from_raw(ours.to_raw(latent)), latent) < 1e-6
    assert error(ours.to_raw(latent), latent / 0.4 + 0.1) < 1e-6
