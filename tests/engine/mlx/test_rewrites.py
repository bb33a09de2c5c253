"""Operations rewritten for less memory traffic on Metal equal the plain ones, to the bit where rounding is the same."""

import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from mlx import nn
from mlx.utils import tree_flatten

from locara_sidecar.engine.mlx_engine import device, norms, resizing
from locara_sidecar.engine.mlx_engine.autoencoders import vae
from locara_sidecar.engine.mlx_engine.denoisers import flux, mmdit, rotary, streams
from locara_sidecar.engine.mlx_engine.rotation import by_axis
from locara_sidecar.engine.mlx_engine.tensors.quantize import AffineQuantizer
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


def at_many_places():
    """Positions as pictures have them, and the rotation there, with FLUX's axes."""
    grid = np.stack(np.meshgrid([0, 1, 9], [0, 3, 22, 355, 700], range(0, 1000, 13), indexing="ij"), axis=-1)
    places = grid.reshape(-1, 3).astype(np.float64)
    return places, by_axis(places, (16, 56, 56), 10_000.0).table()


def rotated_pair_by_pair(x, rotation):
    """The formula, in float32: split the pairs, rotate them and join them again."""
    pairs, table = np.array(x.astype(mx.float32)).reshape(*x.shape[:-1], -1, 2), np.array(rotation)
    a, b, cos, sin = pairs[..., 0], pairs[..., 1], table[..., 0], table[..., 1]
    y = mx.array(np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape))
    assert y.dtype == mx.float32
    return y.astype(x.dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("laid", [False, True], ids=["heads first", "tokens first"])
def test_rotation_in_one_kernel_is_the_formula_and_diffusers_bit_for_bit(dtype, laid):
    places, rotation = at_many_places()
    x = drawn(1, 2, len(places), 3, 128, dtype=dtype).transpose(0, 2, 1, 3)
    x = x if laid else mx.contiguous(x)
    ours = rotary.rotated(x, rotation)
    same(ours, rotated_pair_by_pair(x, rotation))
    cos, sin = (torch.tensor(np.array(rotation[..., i])).repeat_interleave(2, dim=1) for i in range(2))
    given = torch.tensor(np.array(x.astype(mx.float32)))
    theirs = apply_rotary_emb(given.to(torch.bfloat16 if dtype == mx.bfloat16 else torch.float32), (cos, sin))
    same(ours, mx.array(theirs.float().numpy()).astype(dtype))


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for the CPU with g++")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_compiled_queries_and_keys_are_rotated_by_one_kernel_each_to_the_same_bits(dtype, tmp_path):
    """MLX's own compiler shows what it made one kernel of, and that nothing but views is left between them."""
    places, rotation = at_many_places()
    q, k = (drawn(seed, 1, len(places), 2, 128, dtype=dtype).transpose(0, 2, 1, 3) for seed in (1, 2))
    plain = rotary.rotated(q, rotation), rotary.rotated(k, rotation)
    mx.eval(q, k, rotation)  # and are no part of the graph
    mx.enable_compile()
    try:
        compiled = mx.compile(lambda *given: tuple(rotary.rotated(x, given[-1]) for x in given[:-1]))(q, k, rotation)
        mx.export_to_dot(str(tmp_path / "graph.dot"), *compiled)
        mx.eval(compiled)
    finally:
        mx.disable_compile()
    for ours, theirs in zip(compiled, plain, strict=True):
        same(ours, theirs)
    kinds = re.findall(r'label ="(\w+)"', (tmp_path / "graph.dot").read_text())
    kernels = [kind for kind in kinds if kind not in {"Slice", "Reshape", "Transpose"}]
    assert [kind.startswith("Compiled") for kind in kernels] == [True, True], kernels


def test_cosine_and_sine_are_the_exact_ones_rounded_to_float32_and_diffusers():
    places, rotation = at_many_places()
    assert (rotation.shape, rotation.dtype) == ((len(places), 64, 2), mx.float32)
    angles = [
        places[:, axis, None] * 10_000.0 ** (-np.arange(0, size, 2) / size) for axis, size in enumerate((16, 56, 56))
    ]
    joined = np.concatenate(angles, axis=1)
    same(rotation, mx.array(np.stack([np.cos(joined), np.sin(joined)], axis=-1).astype(np.float32)))
    theirs = FluxPosEmbed(10_000, [16, 56, 56])(torch.tensor(places))
    for i, table in enumerate(theirs):
        same(rotation[..., i], mx.array(table[:, ::2].contiguous().numpy()))


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


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_an_output_layer_on_two_inputs_apart_is_the_layer_on_both_together(bits, bias):
    whole = nn.Linear(128 + 512, 128, bias=bias)
    if bias:
        whole.bias = drawn(5, 128)
    if bits is not None:
        whole = nn.QuantizedLinear.from_linear(whole, group_size=64, bits=bits)
    seen, hidden = drawn(1, 1, 9, 128), drawn(2, 1, 9, 512)
    plain = whole(mx.concatenate([seen, hidden], axis=-1))
    assert error(streams.on_both(whole, seen, hidden), plain) < 1e-5
    halves = streams.halved(whole, 128)
    assert (halves is whole) is (bits is None)
    assert error(streams.on_both(halves, seen, hidden), plain) < 1e-5


def test_an_output_layer_whose_border_lies_inside_a_group_stays_together():
    whole = nn.QuantizedLinear(5 * 128, 96, group_size=128, bits=4)
    assert streams.halved(whole, 96) is whole
    assert streams.halved(whole, 128) is not whole


def attended(values, out, rest=0):
    """Attention of random queries and keys over the output of ``values``, followed by the layer ``out``."""
    x = drawn(1, 1, 9, 64)
    q, k = drawn(2, 1, 2, 9, 64), drawn(3, 1, 2, 9, 64)
    v = values(x).reshape(1, 9, 2, 64).transpose(0, 2, 1, 3)
    y = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.1).transpose(0, 2, 1, 3).reshape(1, 9, 128)
    return out(mx.concatenate([y, drawn(4, 1, 9, rest)], axis=-1))


@pytest.mark.parametrize("rest", [0, 64])
def test_a_bias_of_values_that_is_passed_on_gives_the_same_and_is_added_once(rest):
    values, out = nn.Linear(64, 128), nn.Linear(128 + rest, 64)
    values.bias, out.bias = 3 * drawn(5, 128), drawn(6, 64)
    values, out = (nn.QuantizedLinear.from_linear(layer, 64, 4) for layer in (values, out))
    plain = attended(values, out, rest)
    for _ in range(2):
        streams.pass_bias_on(values, out)
        assert "bias" not in values
        assert error(attended(values, out, rest), plain) < 1e-5


def test_only_biases_of_quantized_layers_are_passed_on():
    """A plain product adds its bias by itself."""
    values, out = nn.Linear(64, 128), nn.Linear(128, 64)
    before = out.bias
    streams.pass_bias_on(values, out)
    assert "bias" in values
    without = nn.QuantizedLinear(64, 128, bias=False)
    streams.pass_bias_on(without, out)
    assert mx.array_equal(out.bias, before).item()


@pytest.mark.parametrize("network", ["flux", "sd3"])
def test_a_quantized_network_gives_the_same_once_it_is_split(network):
    if network == "flux":
        config = flux.FluxConfig(
            num_layers=1, num_single_layers=2, attention_head_dim=64, num_attention_heads=2, joint_attention_dim=64,
            axes_dims_rope=(16, 24, 24), pooled_projection_dim=64,
        )  # fmt: skip
        model = flux.Flux(config)
    else:
        model = mmdit.Mmdit(
            mmdit.MmditConfig(
                num_layers=2,
                num_attention_heads=2,
                joint_attention_dim=64,
                caption_projection_dim=128,
                pooled_projection_dim=64,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            )
        )
        model.positions = drawn(7, *model.positions.shape)
    AffineQuantizer(8).prepare(model)
    model.apply(lambda value: value if value.dtype == mx.uint32 else value + 0.01 * drawn(8, *value.shape))
    times, pooled, tokens = mx.array([700.0]), drawn(1, 2, 64), drawn(2, 2, 5, 64)
    latent = drawn(3, 2, 8, 6, 16)

    def run():
        if network == "flux":
            by = model.modulation(times, pooled, 3.5).at(0)
            return model(latent, model.words(tokens), by, model.rotation(5, (8, 6)))
        return model(latent, model.words(tokens), model.modulation(times, pooled).at(0))

    plain, before = run(), len(tree_flatten(model.parameters()))
    model.split()
    assert len(tree_flatten(model.parameters())) != before
    assert error(run(), plain) < 1e-4


def test_a_layer_on_some_tokens_of_two_pictures_as_they_lie_is_the_layer_on_a_copy():
    layer = nn.Linear(32, 16)
    layer.bias = drawn(1, 16)
    y = drawn(2, 2, 9, 32)
    same(mmdit._on_part(layer, y[:, 3:]), layer(mx.contiguous(y[:, 3:])))
    same(mmdit._on_part(layer, y[:1, 3:]), layer(y[:1, 3:]))
    quantized = nn.QuantizedLinear.from_linear(layer, 32, 8)
    same(mmdit._on_part(quantized, y[:, 3:]), quantized(y[:, 3:]))


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


def test_weights_laid_by_column_are_the_same_and_so_is_what_a_layer_makes_of_them():
    model = nn.Sequential(nn.Linear(48, 24), nn.Conv2d(3, 4, 3), nn.Linear(24, 8, bias=False).apply(narrowed))
    x, before = drawn(1, 5, 48), [layer.weight for layer in model.layers]
    made = model.layers[0](x)
    device.lay_out(model)
    for layer, weight in zip(model.layers, before, strict=True):
        same(layer.weight, weight)
    assert memoryview(model.layers[0].weight).strides == (4, 24 * 4)
    assert model.layers[1].weight is before[1]
    assert model.layers[2].weight is before[2]
    assert error(model.layers[0](x), made) < 1e-5


def test_weights_stay_as_they_are_on_a_device_that_reads_them_either_way(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    model = nn.Sequential(nn.Linear(48, 24))
    before = model.layers[0].weight
    device.lay_out(model)
    assert model.layers[0].weight is before


def narrowed(value):
    return value.astype(mx.bfloat16)
