"""Convolutions with large kernels are right on every processor, even where a library's own are wrong."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from locara_sidecar import models
from locara_sidecar.engine.runtime import create
from locara_sidecar.engine.torch_engine.tensors.wide_convolutions import WideConv2d, widen
from support.runtimes import make_job, run_job

POCKET = Path(models.__file__).parent / "pocket"
pytestmark = pytest.mark.torch


def network():
    torch.manual_seed(3)
    patches, plain = nn.Conv2d(16, 64, 4, 4), nn.Conv2d(16, 64, 3)
    return nn.ModuleList([patches, plain]).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_patch_embedding_of_half_types_computes_what_it_should(dtype):
    exact, x = network(), torch.randn(2, 16, 32, 32)
    expected = exact[0](x)
    half = network().to(dtype)
    widen(half, "cpu")
    result = half[0](x.to(dtype))
    assert result.dtype == dtype
    assert (result.float() - expected).norm() < 0.01 * expected.norm()


def test_only_large_kernels_on_a_processor_are_widened():
    half, full, elsewhere = network().bfloat16(), network(), network().bfloat16()
    widen(half, "cpu")
    widen(full, "cpu")
    widen(elsewhere, "cuda")
    assert [type(layer) for layer in half] == [WideConv2d, nn.Conv2d]
    assert half[1].weight.dtype == torch.bfloat16
    assert {type(layer) for part in (full, elsewhere) for layer in part} == {nn.Conv2d}


def test_the_embedded_model_draws_the_same_in_bfloat16(tmp_path):
    runtime, job = create("torch", str(tmp_path), {}), make_job(prompt="a red circle on blue", steps=4, guidance=2.0)
    pictures = []
    for precision in ("float32", "bfloat16"):
        model = msgspec.structs.replace(job.model, id="pocket", path=str(POCKET), precision=precision)
        model = msgspec.structs.replace(model, max_sequence_length=1)
        spec = msgspec.structs.replace(job, model=model, width=128, height=128)
        pictures.append(np.asarray(run_job(runtime, spec).images[0]).astype(int))
    network = runtime.opened.family.module("transformer")
    # what is drawn shows it on few processors only
    assert [type(layer) for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [WideConv2d]
    assert np.abs(pictures[0] - pictures[1]).mean() < 8
