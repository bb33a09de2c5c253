"""Our kernels for group norms: their source run on the processor, how they are chosen, and what remains if they fail.

Whether Metal compiles them cannot be tested here; ``make check-mac`` does that.
"""

import logging
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from locara_sidecar.engine.mlx_engine import norms
from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae, VaeConfig
from locara_sidecar.engine.mlx_engine.kernels import group_statistics
from support.metal_source import changed, metal_kernel, refuses
from support.parity import error
from support.runtimes import make_runtime

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("untried"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="the kernels' source is compiled with g++"),
]
SMALL = mx.float16
TYPES = [mx.float32, mx.bfloat16, SMALL]


def drawn(seed, *shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def known(x, groups):
    wide = np.array(x.astype(mx.float32), dtype=np.float64).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    return wide.mean(axis=(1, 3)), wide.var(axis=(1, 3))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((1, 7, 11, 32), 32),
        ((2, 40, 13, 24), 3),  # chunks, the last of them with fewer pixels
        ((1, 33, 8), 1),
        ((1, 300, 5, 12), 2),
        ((3, 1, 100), 25),  # a picture of one pixel
    ],
)
def test_mean_and_variance_are_those_of_the_numbers(played, shape, groups, dtype):
    group_statistics.trust(dtype)
    x = drawn(1, *shape, dtype=dtype)
    found = group_statistics.of(x, groups)
    for ours, theirs in zip(found, known(x, groups), strict=True):
        assert ours.dtype == mx.float32
        assert ours.shape == theirs.shape
        assert np.abs(np.array(ours) - theirs).max() < 1e-5


def test_numbers_far_from_zero_keep_their_variance(played):
    """The mean of their squares minus the square of their mean would be off by more than the variance."""
    group_statistics.trust(mx.float32)
    x = 1000 + 0.1 * drawn(2, 1, 50, 40, 8)
    assert float((mx.square(x).mean() - mx.square(x.mean())).item()) != pytest.approx(0.01, rel=0.5)
    for ours, theirs in zip(group_statistics.of(x, 2), known(x, 2), strict=True):
        assert np.array(ours) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("act", [None, nn.silu, nn.relu])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_norm_from_its_statistics_is_mlxs_own(played, dtype, act):
    norm = nn.GroupNorm(4, 32, eps=1e-6, pytorch_compatible=True)
    norm.weight, norm.bias = drawn(1, 32, dtype=dtype), drawn(2, 32, dtype=dtype)
    x = 2 + drawn(3, 2, 9, 14, 32, dtype=dtype)
    plain = norms.normed(norm, x, act)
    group_statistics.trust(dtype)
    ours, alone = norms.normed(norm, x, act), norms.normed_alone(norm, x, act)
    assert (ours.shape, ours.dtype) == (x.shape, dtype)
    far = {mx.float32: 1e-5, mx.bfloat16: 8e-2, SMALL: 1e-2}[dtype]
    assert 0 < error(ours.astype(mx.float32), plain.astype(mx.float32)) < far
    assert mx.array_equal(ours, alone).item()


@pytest.mark.parametrize(
    ("dtype", "type_name"), [(mx.float32, "float"), (mx.bfloat16, "bfloat16_t"), (SMALL, "float16_t")], ids=str
)
def test_mlx_itself_takes_the_calls_and_writes_the_signatures_that_the_sources_need(dtype, type_name):
    """Without Metal it does so while it exports a graph. Of arrays in ``constant`` memory, only numbers are read."""
    group_statistics.trust(dtype)
    entries = []
    x = drawn(1, 1, 256, 256, 128, dtype=dtype)
    mx.export_function(entries.append, lambda given: list(group_statistics.of(given, 32)), x)
    first, second = (entry for entry in entries if "CustomKernel" in str(entry.get("name")))
    assert [shape for _, shape, _ in first["outputs"]] == [(1, 2048, 128)] * 2
    assert [shape for _, shape, _ in second["outputs"]] == [(1, 32)] * 2
    assert first["arguments"][2:8] == [32, 2048, 1, 32, 8, 1]
    assert second["arguments"][2:8] == [256 * 32, 1, 1, 256, 1, 1]
    assert f"const device {type_name}* x [[buffer(0)]],\n  const constant int* x_shape " in first["arguments"][1]
    assert f"{first['arguments'][0]}<{type_name}>" in first["arguments"][1]
    for wanted in ("const device float* means ", "const device float* spreads ", "const constant int32_t* pixels "):
        assert wanted in second["arguments"][1]


@pytest.mark.slow
@pytest.mark.parametrize("tiled", [False, True])
def test_an_autoencoder_gives_the_same_pixels_and_latents(played, tiled):
    vae = Vae(VaeConfig(block_out_channels=(8, 16), norm_num_groups=4))
    latent, pixels = drawn(1, 1, 12, 10, 4), drawn(2, 1, 24, 20, 3)
    plain = [vae.decode(latent, tiled=tiled), *vae.encode(pixels, tiled=tiled)]
    mx.eval(plain)
    group_statistics.trust(mx.float32)
    for ours, theirs in zip([vae.decode(latent, tiled=tiled), *vae.encode(pixels, tiled=tiled)], plain, strict=True):
        assert error(ours, theirs) < 1e-5


def test_a_device_that_computes_right_is_trusted_for_that_type_alone(played):
    assert group_statistics.try_out("metal", SMALL)
    x = drawn(1, 1, 40, 8)
    assert group_statistics.of(x.astype(SMALL), 2) is not None
    assert group_statistics.of(x, 2) is None
    for few in (drawn(1, 1, 40, 6), drawn(1, 1, 5, 8)):  # channels, numbers
        assert group_statistics.of(few.astype(SMALL), 2) is None


@pytest.mark.parametrize(
    ("precision", "types"), [("float32", {mx.float32}), ("float16", {mx.float16, mx.float32})], ids=["wide", "half"]
)
def test_an_engine_tries_them_when_it_opens_a_model_for_all_types_of_its_maps(
    monkeypatch, run, job_for, tmp_path, precision, types
):
    """An autoencoder that leaves float16's range computes in float32 there."""
    asked = []
    monkeypatch.setattr(group_statistics, "try_out", lambda *how: asked.append(how))
    runtime = make_runtime("mlx", tmp_path)
    monkeypatch.setattr(runtime.backend, "device", "metal")
    monkeypatch.setattr(mx, "device_info", dict)
    assert run(runtime, job_for("tiny-sd3", steps=1, precision=precision)).images
    assert sorted(asked, key=str) == sorted((("metal", dtype) for dtype in types), key=str)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_other_device_is_tried(monkeypatch, device):
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda *_: pytest.fail("it was tried"))
    assert not group_statistics.try_out(device, mx.float32)
    assert group_statistics.of(drawn(1, 1, 40, 8), 2) is None


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (refuses, "do not run on this device, MLX's do instead: [metal::Device] Unable to build metal library"),
        (lambda *_: refuses, "do not run on this device"),
        (changed("squares[i] += apart * apart", "squares[i] += apart"), "compute wrongly on this device"),
        (metal_kernel, None),
        (changed("left < rows ? left : rows", "rows"), "compute wrongly on this device"),
        (changed("base[i] + mean", "base[i]"), "compute wrongly on this device"),
        (changed("shared[0] / numbers;\n    }", "NAN;\n    }"), "compute wrongly on this device (inf)"),
    ],
    ids=["not compiled", "not run", "variance", "right", "last chunk", "mean", "no numbers"],
)
def test_a_device_that_fails_or_differs_is_left_at_mlxs_own_operations(monkeypatch, caplog, kernel, said):
    monkeypatch.setattr(mx.fast, "metal_kernel", kernel)
    with caplog.at_level(logging.WARNING):
        assert group_statistics.try_out("metal", mx.float32) is (said is None)
    assert [said in record.getMessage() for record in caplog.records] == [True] * (said is not None)
    assert (group_statistics.of(drawn(1, 1, 40, 8), 2) is None) is (said is not None)


@pytest.mark.parametrize(("kernel", "right"), [(refuses, False), (metal_kernel, True)])
def test_a_type_is_tried_once_however_many_models_are_opened(monkeypatch, caplog, kernel, right):
    tried = []
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda *how: tried.append(how) or kernel(*how))
    with caplog.at_level(logging.WARNING):
        assert [group_statistics.try_out("metal", mx.float32) for _ in range(3)] == [right] * 3
    assert len(caplog.records) == int(not right)
    assert len(tried) == (2 if right else 1)
    assert group_statistics.try_out("metal", SMALL) is right, "of each type its own"
