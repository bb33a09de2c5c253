"""Denoisers with compiled blocks: the same pictures, one trace per block and size, and nothing kept.

On the CPU, MLX compiles with g++, which the engine does not require (``device.py``); here it is switched on.
"""

import contextlib
import gc
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from locara_sidecar.engine.mlx_engine.denoisers import flux, flux2, mmdit, unet, zimage
from support.fixture_models import FAMILIES
from support.parity import error
from support.runtimes import Control, make_runtime

pytestmark = [
    pytest.mark.mlx,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles for the CPU with g++"),
]

BLOCKS = (
    *(mmdit.Block, flux.DoubleBlock, flux.SingleBlock, unet.ResnetBlock, unet.TransformerBlock),
    *(zimage.Block, flux2.DoubleBlock, flux2.SingleBlock),
)
ONCE = "tiny-z-image"
"""Its blocks that refine the text run once a picture, not in every step, and on arrays of the same shape."""


@contextlib.contextmanager
def compiling():
    """Let MLX compile inside the block. (Making a runtime switches that off.)"""
    mx.enable_compile()
    try:
        yield
    finally:
        mx.disable_compile()


@pytest.fixture
def traces(monkeypatch):
    """Record the blocks whose Python code runs, in order: when compiled, those that are traced."""
    seen = []

    def watch(cls):
        call = cls.__call__

        def watched(self, *arguments):
            seen.append(id(self))
            return call(self, *arguments)

        monkeypatch.setattr(cls, "__call__", watched)

    for cls in BLOCKS:
        watch(cls)
    return seen


def blocks_of(runtime):
    family = runtime.opened.family
    return [part for _, part in family.module(family.denoiser).named_modules() if isinstance(part, BLOCKS)]


def last_x0(run, runtime, job):
    return np.array(run(runtime, job).steps[-1].x0)


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_each_block_is_traced_once_a_size_and_the_result_is_the_same(model, run, job_for, tmp_path, traces):
    small, large = job_for(model, steps=3), job_for(model, steps=2, width=96, height=128)
    runtime = make_runtime("mlx", tmp_path)
    plain = [last_x0(run, runtime, job) for job in (small, large)]
    blocks = blocks_of(runtime)
    text = runtime.opened.family.module("transformer").context_refiner if model == ONCE else []
    assert len(traces) == (3 + 2) * (len(blocks) - len(text)) + 2 * len(text)
    traces.clear()
    once = [id(block) for block in text]
    expected = sorted(once + 2 * [id(block) for block in blocks if id(block) not in once])
    with compiling():
        compiled = [last_x0(run, runtime, job) for job in (small, large)]
        assert sorted(traces) == expected
        assert np.array_equal(last_x0(run, runtime, small), compiled[0])
    assert len(traces) == len(expected)
    assert [error(ours, theirs) < 1e-5 for ours, theirs in zip(compiled, plain, strict=True)] == [True, True]


@pytest.mark.quick_cases("tiny-flux-kontext")
@pytest.mark.parametrize("model", FAMILIES)
def test_a_compiled_job_can_be_stopped_at_as_many_places_and_gives_its_weights_back(model, run, job_for, tmp_path):
    job = job_for(model, steps=2)
    runtime = make_runtime("mlx", tmp_path)
    places = run(runtime, job).control.counts["denoising"]
    blocks = len(blocks_of(runtime))
    assert places > 2 * blocks
    with compiling():
        assert run(runtime, job).control.counts["denoising"] == places
        stopped = run(runtime, job, Control("denoising", blocks // 2 + 1))
    assert stopped.cancelled
    assert stopped.steps == []
    family = runtime.opened.family
    weights = sum(value.nbytes for _, value in tree_flatten(family.module(family.denoiser).parameters()))
    del stopped
    gc.collect()
    before = mx.get_active_memory()
    family.drop({family.denoiser})
    assert before - mx.get_active_memory() > 0.9 * weights


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_compiled_blocks_compute_with_the_weights_that_were_asked_for(model, run, job_for, tmp_path):
    """Each load has its own functions, with nothing of an earlier one left in them."""
    jobs = [job_for(model, steps=2, quantization=bits) for bits in ("none", "4bit", "none", "8bit")]
    runtime = make_runtime("mlx", tmp_path)
    plain = [last_x0(run, runtime, job) for job in jobs]
    runtime = make_runtime("mlx", tmp_path)
    with compiling():
        compiled = [last_x0(run, runtime, job) for job in jobs]
    assert [error(ours, theirs) < 1e-4 for ours, theirs in zip(compiled, plain, strict=True)] == [True] * 4
    assert error(compiled[1], compiled[0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_compiled_blocks_compute_with_the_weights_that_their_model_has_now(model, run, job_for, tmp_path):
    job = job_for(model, steps=1)
    runtime = make_runtime("mlx", tmp_path)
    with compiling():
        before = last_x0(run, runtime, job)
        for block in blocks_of(runtime):
            block.update(tree_map(lambda value: value * 1.5, block.parameters()))
        after = last_x0(run, runtime, job)
    assert error(after, last_x0(run, runtime, job)) < 1e-5
    assert error(after, before) > 1e-3
