"""Our kernel for queries and keys: its source run on the processor, how it is chosen, and what remains if it fails.

Whether Metal compiles it cannot be tested here; ``make check-mac`` does that.
"""

import logging
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from locara_sidecar.engine.mlx_engine.denoisers import rotary
from locara_sidecar.engine.mlx_engine.denoisers.flux import FluxConfig
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Config
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import MmditConfig
from locara_sidecar.engine.mlx_engine.denoisers.zimage import ZImageConfig
from locara_sidecar.engine.mlx_engine.kernels import group_statistics, rotated_heads
from locara_sidecar.engine.mlx_engine.kernels.rotated_heads import Use
from locara_sidecar.engine.mlx_engine.rotation import ByAxis, by_axis, by_nothing
from support.metal_source import changed, metal_kernel, refuses
from support.parity import error
from support.runtimes import Control, make_runtime

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("untried"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="the kernel's source is compiled with g++"),
]
TYPES = [mx.float32, mx.bfloat16, mx.float16]
HALF_A_DIGIT = {mx.float32: 0, mx.bfloat16: 2**-8, mx.float16: 2**-11}
"""What rounding to a type may change, relative to the number."""
EPSILON = 1e-3
MEDIUM = MmditConfig(num_attention_heads=24, qk_norm="rms_norm")


def drawn(seed, *shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def stream(seed, batch, tokens, use, *, small=1.0):
    """Numbers of one stream as its layers output them, and norms whose weights matter."""
    width = use.heads * use.size
    norms = rotary.Norms(nn.RMSNorm(use.size, eps=EPSILON), nn.RMSNorm(use.size, eps=EPSILON))
    for i, norm in enumerate(norms):
        norm.weight = (1 + 0.3 * drawn(seed + 10 * i, use.size)).astype(use.dtype)
    q, k, v = (small * drawn(seed + 20 + i, batch, tokens, width) for i in range(3))
    return rotary.Stream(q.astype(use.dtype), k.astype(use.dtype), v.astype(use.dtype), use.size, norms)


def some_rotation(tokens, size):
    """Tokens at some of a hundred positions, on three axes that share out the pairs unevenly."""
    first, second = 2 * (size // 10), 2 * (size // 5)
    places = np.random.default_rng(99).integers(0, 100, (tokens, 3))
    return by_axis(places, (first, size - first - second, second), 3.0)


def by_hand(parts, rotation):
    """Norm and rotate each head of ``parts``, (numbers, weight) of each stream, in float64."""
    rows = []
    for x, weight in parts:
        wide, by = (np.array(value.astype(mx.float32), dtype=np.float64) for value in (x, weight))
        wide = wide.reshape(*x.shape[:2], -1, len(by))
        rows.append(wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + EPSILON) * by)
    x, table = np.concatenate(rows, axis=1), np.array(rotation.table(), dtype=np.float64)[:, None]
    a, b, cos, sin = x[..., ::2], x[..., 1::2], table[..., 0], table[..., 1]
    return np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).transpose(0, 2, 1, 3)


def in_one_kernel(streams, rotation):
    given = [rotated_heads.Stream(s.q, s.k, s.norms.q.weight, s.norms.k.weight) for s in streams]
    return rotated_heads.of(given, rotation, EPSILON)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "tokens", "count", "size"),
    [
        (1, (7,), 3, 64),
        (2, (5, 11), 2, 128),
        (2, (13,), 1, 16),  # fewer pairs than a simdgroup has threads
        (1, (3, 4), 9, 72),  # more heads than one threadgroup takes
        (2, (1, 6), 2, 34),
        (1, (2, 9), 17, 96),
        (1, (4,), 2, 250),
    ],
)
def test_each_head_is_normed_and_rotated(played, batch, tokens, count, size, dtype):
    use = Use(dtype, count, size)
    rotated_heads.trust(use)
    streams = [stream(i, batch, many, use, small=0.05**i) for i, many in enumerate(tokens)]
    rotation = some_rotation(sum(tokens), size)
    found = in_one_kernel(streams, rotation)
    known = (
        by_hand([(s.q, s.norms.q.weight) for s in streams], rotation),
        by_hand([(s.k, s.norms.k.weight) for s in streams], rotation),
    )
    for ours, exact in zip(found, known, strict=True):
        assert (ours.dtype, ours.shape) == (dtype, (batch, count, sum(tokens), size))
        far = np.abs(np.array(ours.astype(mx.float32)) - exact)
        assert (far <= HALF_A_DIGIT[dtype] * np.abs(exact) + 3e-6).all()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("tokens", [(9,), (4, 7)])
def test_attention_is_as_with_mlxs_own_operations(played, tokens, dtype):
    use = Use(dtype, 3, 64)
    streams = [stream(i, 2, many, use) for i, many in enumerate(tokens)]
    rotation = some_rotation(sum(tokens), 64)
    plain = rotary.attended(streams, rotation.table())
    rotated_heads.trust(use)
    ours = rotary.attended(streams, rotation)
    assert (ours.dtype, ours.shape) == (dtype, (2, sum(tokens), 192))
    far = error(ours.astype(mx.float32), plain.astype(mx.float32))
    assert far < {mx.float32: 1e-5, mx.bfloat16: 3e-2, mx.float16: 4e-3}[dtype]
    assert not mx.array_equal(ours, plain).item(), "the kernel was not used"


@pytest.mark.parametrize("rotation", [some_rotation(10, 128), by_nothing(10, 128)], ids=["positions", "none"])
def test_mlx_itself_takes_the_call_and_writes_the_signature_that_the_source_needs(rotation):
    """Without Metal it does so while it exports a graph. Pointers are chosen between, so they are all of ``device``. A
    model without positions has the same signature, so it runs the kernel that was tried.
    """
    use = Use(mx.bfloat16, 24, 128)
    rotated_heads.trust(use)
    parts = [rotated_heads.Stream(s.q, s.k, s.norms.q.weight, s.norms.k.weight) for s in (stream(1, 2, 5, use),) * 2]

    def call(*given):
        streams = [rotated_heads.Stream(*given[:4]), rotated_heads.Stream(*given[4:8])]
        return list(rotated_heads.of(streams, ByAxis(*given[8:]), 1.0))

    entries = []
    mx.export_function(entries.append, call, *parts[0], *parts[1], *rotation)
    (kernel,) = (entry for entry in entries if entry["type"] == "primitive")
    assert [shape for _, shape, _ in kernel["outputs"]] == [(2, 24, 10, 128)] * 2
    name, source, *launch = kernel["arguments"]
    assert launch[:6] == [32, 24, 20, 32, 8, 1]
    assert f"{name}<bfloat16_t, 128>" in source
    for array in rotated_heads._GIVEN[:8]:
        assert f"const device bfloat16_t* {array} " in source
    looked_up = "device float* cos_sin", "device uint32_t* starts", "device uint32_t* columns"
    for array in (*looked_up, "constant float* epsilon"):
        assert f"const {array} " in source


def test_heads_that_are_not_normed_or_were_not_tried_so_are_left_to_mlx(played):
    use = Use(mx.float16, 2, 32)
    rotated_heads.trust(use)
    rotation, one = some_rotation(5, 32), stream(1, 1, 5, use)
    assert in_one_kernel([one], rotation) is not None
    assert rotary.attended([one._replace(norms=None)], rotation).shape == (1, 5, 64)
    for other in (Use(mx.float32, 2, 32), Use(mx.float16, 4, 16), Use(mx.float16, 3, 32)):
        assert in_one_kernel([stream(1, 1, 5, other)], some_rotation(5, other.size)) is None
    wide = rotary.Norms(nn.RMSNorm(32, eps=EPSILON), nn.RMSNorm(32, eps=EPSILON))
    mixed = [one._replace(norms=wide)]
    assert in_one_kernel(mixed, rotation) is None, "types are mixed"
    assert mx.array_equal(rotary.attended(mixed, rotation), rotary.attended(mixed, rotation.table())).item()
    one.norms.k.eps = 100 * EPSILON  # the kernel has one epsilon
    assert mx.array_equal(rotary.attended([one], rotation), rotary.attended([one], rotation.table())).item()


def test_what_does_not_fit_together_does_not_reach_metal(played):
    use = Use(mx.float16, 2, 32)
    rotated_heads.trust(use)
    with pytest.raises(ValueError, match="5 tokens, 1 sizes of batch, 6 rotations"):
        in_one_kernel([stream(1, 1, 5, use)], some_rotation(6, 32))
    with pytest.raises(ValueError, match="7 tokens, 2 sizes of batch, 7 rotations"):
        in_one_kernel([stream(1, 1, 5, use), stream(2, 2, 2, use)], some_rotation(7, 32))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "config", [FluxConfig(), Flux2Config(), ZImageConfig(), MEDIUM], ids=lambda config: type(config).__name__
)
def test_a_device_that_computes_right_is_trusted_for_heads_as_the_models_have_them(played, config, dtype):
    use = Use(dtype, *config.rotated_heads)
    assert rotated_heads.try_out("metal", use)
    assert in_one_kernel([stream(1, 1, 2, use)], some_rotation(2, use.size)) is not None


def test_a_model_without_such_norms_has_nothing_to_try():
    assert ZImageConfig(qk_norm=False).rotated_heads is None
    for other in (None, "layer_norm", "fp32_layer_norm"):
        assert MmditConfig(qk_norm=other).rotated_heads is None
    assert rotary.still(5, None, mx.float32) is None


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_heads_without_positions_are_normed_and_joined_as_without_the_kernel(played, dtype):
    """The kernel rotates by nothing then; MLX's own operations do not rotate."""
    use = Use(dtype, 3, 64)
    streams = [stream(i, 2, many, use) for i, many in enumerate((4, 7))]
    assert rotary.still(11, use[1:], dtype) is None
    plain = rotary.prepared(streams, None)
    rotated_heads.trust(use)
    still = rotary.still(11, use[1:], dtype)
    ours = rotary.prepared(streams, still)
    assert mx.array_equal(rotary.rotated(plain[0], still.table()), plain[0]).item()
    for found, expected in zip(ours[:2], plain[:2], strict=True):
        apart = mx.abs(found.astype(mx.float32) - expected.astype(mx.float32))
        assert (apart <= 4 * HALF_A_DIGIT[dtype] * mx.abs(expected) + 3e-6).all().item()
        assert not mx.array_equal(found, expected).item(), "the kernel was not used"
    assert mx.array_equal(ours[2], plain[2]).item()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_other_device_is_tried(monkeypatch, device):
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda *_: pytest.fail("it was tried"))
    assert not rotated_heads.try_out(device, Use(mx.float32, 2, 32))


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (refuses, "do not run on this device, MLX's do instead: [metal::Device] Unable to build metal library"),
        (lambda *_: refuses, "do not run on this device"),
        (metal_kernel, None),
        (changed("- d * sines[i]", "+ d * sines[i]"), "compute wrongly on this device"),
        (changed("+ epsilon[0]", ""), "compute wrongly on this device"),
        (changed("by_q_first : by_q_second", "by_q_first : by_q_first"), "compute wrongly on this device"),
        (changed("k_first : k_second", "k_first : q_second"), "compute wrongly on this device"),
        (changed("size_t(picture) * (tokens - firsts)", "0"), "compute wrongly on this device"),
        (changed("starts[token * axes + columns[2 * pair]]", "0"), "compute wrongly on this device"),
        (changed("axes + columns[2 * pair]", "axes"), "compute wrongly on this device"),
        (changed("+ columns[2 * pair + 1]", ""), "compute wrongly on this device"),
        (changed("float(SIZE)", "float(SIZE - 1)"), "compute wrongly on this device"),
        (changed("which < 2", "which < 1"), "compute wrongly on this device (inf)"),
    ],
    ids=[
        *("not compiled", "not run", "right", "the other way", "epsilon", "weight", "keys", "picture", "place"),
        *("axis", "frequency", "mean", "not written"),
    ],
)
def test_a_device_that_fails_or_differs_is_left_at_mlxs_own_operations(monkeypatch, caplog, kernel, said):
    monkeypatch.setattr(mx.fast, "metal_kernel", kernel)
    use = Use(mx.bfloat16, 3, 64)
    with caplog.at_level(logging.WARNING):
        assert [rotated_heads.try_out("metal", use) for _ in range(2)] == [said is None] * 2
    assert [said in record.getMessage() for record in caplog.records] == [True] * (said is not None)
    assert all("kernels for queries and keys" in record.getMessage() for record in caplog.records)
    assert (in_one_kernel([stream(1, 1, 5, use)], some_rotation(5, 64)) is None) is (said is not None)


def on_a_played_mac(monkeypatch, tmp_path):
    """A runtime that treats the processor as Metal, and a list that records each launch of the kernel."""
    launched = []

    def counted(name, *how):
        call = metal_kernel(name, *how)

        def counting(**given):
            launched.append(given["output_shapes"][0])
            return call(**given)

        return counting

    monkeypatch.setattr(mx.fast, "metal_kernel", counted)
    monkeypatch.setattr(group_statistics, "try_out", lambda *_: False)
    monkeypatch.setattr(mx, "device_info", dict)
    runtime = make_runtime("mlx", tmp_path)
    monkeypatch.setattr(runtime.backend, "device", "metal")
    return runtime, launched


@pytest.mark.parametrize("model", ["tiny-flux", "tiny-flux-kontext", "tiny-z-image", "tiny-flux2", "tiny-sd3"])
def test_a_job_is_the_same_with_one_launch_a_block_and_stops_at_as_many_places(
    monkeypatch, run, job_for, tmp_path, model
):
    job = job_for(model, steps=2, width=64, height=96)
    plain = run(make_runtime("mlx", tmp_path), job)
    runtime, launched = on_a_played_mac(monkeypatch, tmp_path)
    ours = run(runtime, job)
    trial = len(rotated_heads._TRIALS)
    family = runtime.opened.family
    network, once = family.module(family.denoiser), 0
    if model == "tiny-z-image":  # its text is refined once a picture
        once = len(network.context_refiner)
    blocks = sum(len(getattr(network, name)) for name in network.repeated)
    seconds = 0
    if model == "tiny-sd3":  # the last block has no queries of the text; some have a second attention
        seconds = sum("attn2" in block for block in network.blocks) - 1
    assert len(launched) - trial == 2 * (blocks - once + seconds) + once
    assert error(ours.steps[-1].x0, plain.steps[-1].x0) < 1e-4
    assert ours.control.counts == plain.control.counts
    stopped = run(runtime, job, Control("denoising", blocks // 2 + 1))
    assert stopped.cancelled
    assert stopped.steps == []


def test_models_without_rotated_heads_try_nothing(monkeypatch, run, job_for, tmp_path):
    runtime, launched = on_a_played_mac(monkeypatch, tmp_path)
    assert run(runtime, job_for("tiny-sdxl", steps=1)).images
    assert launched == []


def test_rotation_is_as_the_blocks_without_the_kernel_have_it(played):
    """With the models' own table, not one made here."""
    use = Use(mx.float32, 2, 16)
    rotated_heads.trust(use)
    places = np.array([[0, 0, 0], [0, 3, 700], [1, 40, 2]], dtype=np.float64)
    rotation, one = by_axis(places, (4, 6, 6), 10_000.0), stream(5, 1, 3, use)
    for ours, x, norm in zip(in_one_kernel([one], rotation), (one.q, one.k), one.norms, strict=True):
        plain = rotary.rotated(norm(x.reshape(1, 3, 2, 16)).transpose(0, 2, 1, 3), rotation.table())
        assert error(ours, plain) < 1e-6
