"""Compiled blocks (``--compile``): the same picture within a level, code shared by blocks, stops between blocks."""

import logging
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from locara_sidecar.engine.torch_engine import runtime as torch_runtime
from locara_sidecar.engine.torch_engine.denoising import compiled

pytestmark = [
    pytest.mark.torch,
    pytest.mark.timeout(300),  # a C compiler runs a dozen times
    pytest.mark.filterwarnings("default"),  # torch's compiler warns about its own use of Python
]

MODEL, STEPS = "tiny-sd3", 12


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_a_compiled_model_draws_stops_and_predicts_as_the_plain_one_does(tmp_path, runtimes, run, job_for, control):
    plain, runtime = runtimes(MODEL), torch_runtime.create(str(tmp_path), {"compile": ""})
    spec = job_for(MODEL, steps=STEPS)
    expected = run(plain, spec)
    counters.clear()
    mine = run(runtime, spec)
    blocks = compiled.blocks_of(runtime.opened.family.module("transformer"))
    assert len(blocks) == 4
    # the probe; blocks with and without a second attention, and the last block: none per step
    assert counters["stats"]["unique_graphs"] == 1 + 3
    far = np.abs(np.asarray(mine.images[0], int) - np.asarray(expected.images[0], int))
    assert far.max() <= 1
    assert run(runtime, spec).images[0].tobytes() == mine.images[0].tobytes()

    # a job still stops between two blocks: a step has at least as many checkpoints as blocks
    assert mine.control.counts["denoising"] >= STEPS * len(blocks)
    stopped = run(runtime, spec, control("denoising", STEPS * len(blocks) // 2))
    assert stopped.cancelled

    # step caching runs the uncompiled blocks, and restores what was there
    fast = run(runtime, job_for(MODEL, steps=STEPS, speed="fast"))
    assert fast.images[0].tobytes() == run(plain, job_for(MODEL, steps=STEPS, speed="fast")).images[0].tobytes()
    assert counters["stats"]["unique_graphs"] == 1 + 3
    assert all(block.forward is vars(block)[compiled._KEPT] for block in blocks)
    assert run(runtime, spec).images[0].tobytes() == mine.images[0].tobytes()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_layers_in_fewer_bits_are_compiled_with_their_block(tmp_path, run, job_for):
    """Besides layers in 4 bits this model has some in 8: those whose rows are not whole groups."""
    spec = job_for(MODEL, quantization="4bit")
    expected = run(torch_runtime.create(str(tmp_path / "plain")), spec)
    counters.clear()
    runtime = torch_runtime.create(str(tmp_path / "compiled"), {"compile": ""})
    mine = run(runtime, spec)
    kinds = {type(part).__name__ for part in runtime.opened.family.module("transformer").modules()}
    assert {"Linear4", "Linear8"} <= kinds
    assert not counters["graph_break"]
    assert np.abs(np.asarray(mine.images[0], int) - np.asarray(expected.images[0], int)).max() <= 1


@pytest.mark.parametrize("why", ["no compiler", "mps"])
def test_where_nothing_can_be_compiled_the_log_tells_and_blocks_run_as_they_are(
    tmp_path, run, runtimes, job_for, monkeypatch, caplog, why
):
    def fail(*args, **kwargs):
        raise RuntimeError("no working compiler")

    if why == "mps":
        assert not compiled.works("mps")
    else:
        monkeypatch.setattr(torch, "compile", fail)
        with caplog.at_level(logging.WARNING):
            runtime = torch_runtime.create(str(tmp_path), {"compile": ""})
            result = run(runtime, job_for(MODEL, steps=2))
        assert result.images[0].tobytes() == run(runtimes(MODEL), job_for(MODEL, steps=2)).images[0].tobytes()
        blocks = compiled.blocks_of(runtime.opened.family.module("transformer"))
        assert not any(compiled._KEPT in vars(block) for block in blocks)
    assert "blocks run uncompiled" in caplog.text


def test_blocks_are_those_that_repeat(runtimes, run, job_for):
    for model, part, kinds in (
        ("tiny-sd3", "transformer", {"JointTransformerBlock"}),
        ("tiny-flux-dev", "transformer", {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
        ("tiny-sdxl", "unet", {"BasicTransformerBlock"}),
    ):
        run(runtimes(model), job_for(model, steps=1))
        blocks = compiled.blocks_of(runtimes(model).opened.family.module(part))
        assert {type(block).__name__ for block in blocks} == kinds
