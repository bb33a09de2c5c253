"""Compiled arithmetic gives what it gives uncompiled; on the CPU it takes a compiler to try."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from locara_sidecar.engine.mlx_engine import fused


@pytest.fixture
def compiling():
    mx.enable_compile()
    yield
    mx.disable_compile()


def numbers(*shapes):
    rng = np.random.default_rng(1)
    return [mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


CALLS = {
    "modulated": lambda size: (fused.modulated, numbers((2, size, 16), (2, 1, 16), (2, 1, 16))),
    "gated": lambda size: (fused.gated, numbers((2, size, 16), (2, 1, 16), (2, size, 16))),
    "turned": lambda size: (fused.turned, numbers((1, 2, size, 16), (size, 8), (size, 8))),
    "gelu_gated": lambda size: (fused.gelu_gated, numbers((2, size, 16))),
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for the CPU with g++")
@pytest.mark.parametrize("name", CALLS)
def test_compiled_gives_the_same_at_one_size_and_the_next(compiling, name):
    for size in (5, 9):
        call, arrays = CALLS[name](size)
        compiled = np.array(call(*arrays))
        mx.disable_compile()
        plain = np.array(call(*arrays))
        mx.enable_compile()
        assert np.abs(compiled - plain).max() < 1e-5
        assert compiled.shape == plain.shape
