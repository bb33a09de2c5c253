"""Operations rewritten for less memory traffic on Metal equal the plain ones, to the bit where rounding is the same."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from locara_sidecar.engine.mlx_engine import norms, resizing
from locara_sidecar.engine.mlx_engine.autoencoders import vae
from locara_sidecar.engine.mlx_engine.denoisers import flux, rotary
from locara_sidecar.engine.mlx_engine.texts import clip
from locara_sidecar.engine.mlx_engine.texts.t5 import T5Config, T5Encoder
from support.parity import error

TYPES = [mx.float32, mx.bfloat16]


def drawn(seed, *shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def same(ours, plain):
    assert ours.dtype == plain.dtype
    assert ours.shape == plain.shape
    assert mx.array_equal(ours, plain).item()
    assert mx.isfinite(ours).all().item()


def turned_pair_by_pair(x, cos, sin):
    """The usual code: split the pairs, rotate them in float32 and join them again."""
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    return mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).astype(x.dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_turning_in_one_kernel_is_turning_pair_by_pair(dtype):
    model = flux.Flux(flux.FluxConfig(num_layers=0, num_single_layers=0, num_attention_heads=1))
    rotation = model.rotation(3, (8, 6), (4, 10))
    x = drawn(1, 2, 3, rotation.first.shape[0], 128, dtype=dtype)
    cos, sin = rotation.first[..., 0], rotation.first[..., 1]
    assert error(cos**2 + sin**2, np.ones(cos.shape)) < 1e-6
    same(rotary.turned(x, *rotation), turned_pair_by_pair(x, cos, sin))
    laid = drawn(2, 2, rotation.first.shape[0], 3, 128, dtype=dtype).transpose(0, 2, 1, 3)
    same(rotary.turned(laid, *rotation), turned_pair_by_pair(laid, cos, sin))


def test_modulation_in_the_norms_kernel_is_modulation_behind_it():
    x, shift, scale = drawn(1, 1, 7, 64), drawn(2, 1, 1, 64), drawn(3, 1, 1, 64)
    made = norms.raised(mx.concatenate([shift, scale], axis=-1), 2, (1,))
    same(made[..., :64], shift)
    same(made[..., 64:], 1 + scale)
    plain = mx.fast.layer_norm(x, None, None, 1e-6) * (1 + scale) + shift
    same(norms.modulated(x, shift, 1 + scale), plain)
    narrow = [value.astype(mx.bfloat16) for value in (x, shift, 1 + scale)]
    assert error(norms.modulated(*narrow).astype(mx.float32), plain) < 0.02


def test_of_two_pictures_each_has_its_own_modulation():
    x, shift, scale = drawn(1, 2, 7, 64), drawn(2, 2, 1, 64), drawn(3, 2, 1, 64)
    both = norms.modulated(x, shift, scale)
    for i in range(2):
        one = slice(i, i + 1)
        same(both[one], norms.modulated(x[one], shift[one], scale[one]))


@pytest.mark.parametrize("act", [None, nn.silu, nn.relu])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 5, 6, 16), (2, 3, 4, 8)])
def test_a_group_norm_that_is_not_laid_back_is_mlxs_own(shape, dtype, act):
    norm = nn.GroupNorm(4, shape[-1], eps=1e-6, pytorch_compatible=True)
    norm.weight, norm.bias = drawn(1, shape[-1], dtype=dtype), drawn(2, shape[-1], dtype=dtype)
    x = drawn(3, *shape, dtype=dtype)
    plain = norm(x)
    same(norms.normed(norm, x, act), plain if act is None else act(plain))
    same(norms.normed_alone(norm, x, act), plain if act is None else act(plain))


def test_pixels_are_doubled_as_by_two_repeats():
    x = drawn(1, 2, 3, 5, 4)
    twice = mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
    same(resizing.doubled(x), twice)
    same(resizing.nearest(x, (6, 10)), twice)
    same(resizing.nearest(x, (5, 9)), twice[:, [0, 1, 2, 3, 4]][:, :, [0, 1, 2, 3, 4, 5, 6, 7, 8]])


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_an_output_layer_on_two_inputs_apart_is_the_layer_on_both_together(bits):
    block = flux.SingleBlock(flux.FluxConfig(num_attention_heads=1, attention_head_dim=128))
    block.proj_out.bias = drawn(5, 128)
    seen, hidden = drawn(1, 1, 9, 128), drawn(2, 1, 9, 512)
    if bits is not None:
        nn.quantize(block, group_size=64, bits=bits)
    plain = block.proj_out(mx.concatenate([seen, hidden], axis=-1))
    assert error(block._out(seen, hidden), plain) < 1e-5
    held = block.proj_out
    block.split()
    assert (block.proj_out is held) is (bits is None)
    assert error(block._out(seen, hidden), plain) < 1e-5


def test_an_output_layer_whose_border_lies_inside_a_group_stays_together():
    block = flux.SingleBlock(flux.FluxConfig(num_attention_heads=2, attention_head_dim=48, axes_dims_rope=(16, 16, 16)))
    nn.quantize(block, group_size=32, bits=4)
    whole = block.proj_out
    object.__setattr__(whole, "group_size", 128)  # 96 is not a multiple of it
    block.split()
    assert block.proj_out is whole


@pytest.mark.parametrize("end", [[3, 9], [0, 5]])
def test_the_last_layer_of_clip_at_one_token_is_the_layer_at_all_of_them(end):
    layer = clip.Layer(clip.ClipConfig(hidden_size=32, intermediate_size=64, num_attention_heads=4))
    x = drawn(1, 2, 10, 32)
    whole = layer(x)
    expected = mx.stack([whole[i, place] for i, place in enumerate(end)])[:, None]
    assert error(layer.at(x, mx.array(end)), expected) < 1e-5


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for the CPU with g++")
@pytest.mark.parametrize("network", ["clip", "t5", "vae"])
def test_compiled_layers_give_what_plain_ones_give(network):
    made = {
        "clip": lambda: clip.ClipTextModel(
            clip.ClipConfig(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=3)
        ),
        "t5": lambda: T5Encoder(T5Config("gated-gelu", d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)),
        "vae": lambda: vae.Vae(vae.VaeConfig(block_out_channels=(8, 16), norm_num_groups=4)),
    }[network]()
    ids = mx.array([[5, 3, 49407, 49407]])

    def run():
        if network == "vae":
            latent = drawn(1, 1, 6, 5, 4)
            return [made.decode(latent), made.decode(latent, tiled=True), *made.encode(drawn(2, 1, 8, 8, 3))]
        return list(made(ids)) if network == "clip" else [made(mx.array([[5, 3, 1, 0]]))]

    plain = run()
    mx.enable_compile()
    try:
        compiled = run()
        mx.eval(compiled)
    finally:
        mx.disable_compile()
    assert [error(ours, theirs) < 1e-5 for ours, theirs in zip(compiled, plain, strict=True)] == [True] * len(plain)
