"""What keeps float16 within its range, and that nothing of it touches the other types."""

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_map

from locara_sidecar.engine.mlx_engine.denoisers import flux, headroom, streams
from locara_sidecar.machine import plan as plans
from support.fixture_models import FAMILIES
from support.headroom import without_headroom
from support.parity import error
from support.runtimes import make_runtime

pytestmark = pytest.mark.mlx


def layer_of(inputs, outputs, bits=None, *, bias=True, scale=1.0):
    """A layer with weights and a bias of about ``scale``, in float32."""
    mx.random.seed(5)
    made = nn.Linear(inputs, outputs, bias=bias)
    made.weight = scale * mx.random.normal(made.weight.shape)
    if bias:
        made.bias = scale * mx.random.normal(made.bias.shape)
    return made if bits is None else nn.QuantizedLinear.from_linear(made, 64, bits)


def in_float16(layer):
    def half(value):
        return value if value.dtype == mx.uint32 else value.astype(mx.float16)

    layer.update(tree_map(half, layer.parameters()))
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("scale", [1.0, 2_000.0])
def test_an_output_beyond_the_range_is_what_it_is_in_float32(bits, bias, scale):
    """In float16 alone, sums of 192 numbers of size 2,000 x 30 are beyond 65,504."""
    x = 30 * mx.random.normal((2, 5, 192), key=mx.random.key(3))
    layer = layer_of(192, 16, bits, bias=bias, scale=scale)
    expected = layer(x)
    got = headroom.restored(in_float16(layer), headroom.less(x.astype(mx.float16)))
    assert got.dtype == mx.float32
    assert error(got, expected) < 0.005
    assert (mx.abs(expected).max().item() > 65_504) == (scale > 1)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_so_is_that_of_a_layer_on_two_inputs(bits, halves):
    first, second = (30 * mx.random.normal((1, 5, size), key=mx.random.key(size)) for size in (64, 128))
    layer = layer_of(192, 16, bits, scale=2_000.0)
    expected = layer(mx.concatenate([first, second], axis=-1))
    layer = in_float16(layer)
    if halves:
        layer = streams.halved(layer, 64)
        assert isinstance(layer, streams.Halves) == (bits is not None)
    got = streams.on_both(layer, *(headroom.less(x.astype(mx.float16)) for x in (first, second)))
    assert got.dtype == mx.float32
    assert error(got, expected) < 0.005


def test_the_bias_of_a_divided_input_is_not_multiplied():
    layer = in_float16(layer_of(64, 16))
    got = headroom.restored(layer, mx.zeros((1, 64), dtype=mx.float16))
    assert error(got, layer.bias.astype(mx.float32)[None]) == 0


def test_feed_forwards_activation_is_right_where_the_cube_in_it_leaves_the_range():
    x = [-60_000.0, -41.0, 41.0, 60_000.0]
    assert nn.gelu_approx(mx.array(x, dtype=mx.float16)).tolist() == [0, 0, 41, 60_000]


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
@pytest.mark.parametrize("model", ["tiny-sd3", "tiny-flux-dev", "tiny-flux-kontext", "tiny-flux2"])
def test_a_job_in_float16_ends_near_one_in_float32(run, job_for, tmp_path, model, quantization):
    half, full = (
        run(make_runtime("mlx", tmp_path), job_for(model, steps=2, precision=precision, quantization=quantization))
        for precision in ("float16", "float32")
    )
    assert half.summary.settled.precision == "float16"
    assert error(half.steps[-1].x0, full.steps[-1].x0) < 0.02


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", FAMILIES)
def test_in_other_types_no_bit_depends_on_it(run, job_for, tmp_path, monkeypatch, model, precision):
    def drawn():
        done = run(make_runtime("mlx", tmp_path), job_for(model, steps=2, precision=precision))
        return np.array(done.steps[-1].x0), np.asarray(done.images[0])

    latent, picture = drawn()
    without_headroom(monkeypatch)
    plain_latent, plain_picture = drawn()
    assert (latent == plain_latent).all()
    assert (picture == plain_picture).all()


def taken(dtype):
    """Return the most bytes per token and channel that a call of a small FLUX holds; calls differ."""
    mx.random.seed(1)
    config = flux.FluxConfig(
        num_layers=1, num_single_layers=1, num_attention_heads=4, joint_attention_dim=64, pooled_projection_dim=64,
        axes_dims_rope=(32, 48, 48),
    )  # fmt: skip
    model = flux.Flux(config)
    model.apply(lambda value: (0.05 * mx.random.normal(value.shape)).astype(dtype))
    latent, tokens, pooled = (
        mx.random.normal(shape).astype(dtype) for shape in ((1, 24, 24, 16), (1, 48, 64), (1, 64))
    )
    given = model.words(tokens), model.modulation(mx.array([700.0]), pooled, 3.5).at(0), model.rotation(48, (24, 24))
    mx.eval(model.parameters(), latent, given)
    found = []
    for _ in range(5):
        mx.synchronize()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(model(latent, *given, pace=mx.eval))
        found.append(mx.get_peak_memory() - before)
    return max(found) / ((12 * 12 + 48) * config.width)


@pytest.mark.slow
@pytest.mark.alone  # on a busy machine MLX's threads release memory late
@pytest.mark.timeout(300)
def test_sums_in_float32_take_what_the_plan_adds_for_them_or_less():
    """Of all models FLUX takes most."""
    assert 0 < taken(mx.float16) - taken(mx.bfloat16) < plans.SUMS
