"""Weights in 8 and 4 bits: what is quantized, how far off the result is, and how much memory it takes."""

import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch
from bitsandbytes import functional
from torch import nn

from locara_sidecar.engine.torch_engine import tensors
from locara_sidecar.engine.torch_engine.tensors import bitsandbytes_layers, quantization
from locara_sidecar.engine.torch_engine.tensors.bitsandbytes_layers import Linear4, Linear8
from locara_sidecar.engine.torch_engine.tensors.quantized_linear import QuantizedLinear
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import plan as plans
from support.runtimes import make_runtime

pytestmark = pytest.mark.torch

LAYERS = {"8bit": Linear8, "4bit": Linear4}
OFF = {Linear8: 0.008, Linear4: 0.11}
"""The relative error of a layer's output with torch's uniform initial weights; NF4 is made for normal ones."""


def pair(cls, dtype, inputs=256, outputs=96):
    torch.manual_seed(1)
    linear = nn.Linear(inputs, outputs).to(dtype).requires_grad_(requires_grad=False)
    layer = cls(linear, dtype)
    layer.store(linear.weight)
    return linear, layer


def relative(wanted, got):
    return float((wanted.float() - got.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("rows", [(1, 200), (1, 100), (2, 1), (1,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", LAYERS.values())
def test_a_layer_computes_nearly_what_it_did(cls, dtype, rows):
    linear, layer = pair(cls, dtype)
    x = torch.randn(*rows, 256).to(dtype)
    got = layer(x)
    assert got.dtype == dtype
    assert got.shape == linear(x).shape
    assert relative(linear(x), got) < OFF[cls]


@pytest.mark.parametrize("cls", LAYERS.values())
def test_few_rows_and_many_are_computed_alike(cls):
    _, layer = pair(cls, torch.bfloat16)
    x = torch.randn(200, 256).bfloat16()
    assert relative(layer(x)[:8], layer(x[:8])) < 0.01
    assert relative(layer(x)[:100], layer(x[:100])) < 0.01


@pytest.mark.parametrize("inputs", [8, 40, 100])
def test_rows_that_torchs_kernel_would_read_past_are_computed_without_it(inputs):
    linear, layer = pair(Linear8, torch.bfloat16, inputs)
    x = torch.randn(1, inputs).bfloat16()  # one row would give nonsense, more could crash
    assert relative(linear(x), layer(x)) < OFF[Linear8]


@pytest.mark.parametrize(("inputs", "called"), [(8, False), (40, False), (100, False), (96, True), (256, True)])
def test_torchs_kernel_is_given_no_row_that_it_would_read_past(inputs, called, monkeypatch):
    """The effect of reading past a row depends on what lies behind it, so pictures alone may not show the fault."""
    _, layer = pair(Linear8, torch.bfloat16, inputs)
    kernel, given = torch._weight_int8pack_mm, []
    monkeypatch.setattr(torch, "_weight_int8pack_mm", lambda x, *rest: given.append(x.shape[-1]) or kernel(x, *rest))
    layer(torch.randn(1, inputs).bfloat16())
    assert given == [inputs] * called


@pytest.mark.parametrize("cls", LAYERS.values())
def test_rows_that_lie_turned_in_memory_are_computed_as_others(cls):
    linear, layer = pair(cls, torch.bfloat16)
    x = torch.randn(1, 256, 16).bfloat16().transpose(1, 2)  # as a UNet permutes a picture's pixels
    assert relative(linear(x), layer(x)) < OFF[cls]


def test_float16_stays_in_range_where_integers_would_leave_it():
    linear, layer = pair(Linear8, torch.float16, inputs=4096)
    x = torch.full((64, 4096), 8.0, dtype=torch.float16)
    linear.weight.fill_(0.001)
    layer.store(linear.weight)
    assert torch.isfinite(layer(x)).all()


@pytest.mark.parametrize("cls", LAYERS.values())
def test_rows_and_groups_of_one_value_are_kept(cls):
    linear, layer = pair(cls, torch.float32)
    linear.weight[:32] = 0.0
    linear.weight[32:64] = 0.25
    layer.store(linear.weight)
    torch.testing.assert_close(layer.dequantized()[:64], linear.weight[:64], atol=1e-6, rtol=1e-2)


def test_a_large_weight_is_quantized_piece_by_piece_as_it_would_be_whole():
    linear, layer = pair(Linear4, torch.float32, inputs=64, outputs=40_001)
    assert linear.weight.numel() > 2 * bitsandbytes_layers._PIECE
    values, state = functional.quantize_4bit(linear.weight, blocksize=64, quant_type="nf4")
    assert torch.equal(layer.values, values)
    assert torch.equal(layer.scales, state.absmax)


@pytest.mark.parametrize(("cls", "bits"), [(Linear8, 8.1), (Linear4, 4.5)])
def test_a_layer_takes_its_bits_and_no_more(cls, bits):
    _, layer = pair(cls, torch.bfloat16, inputs=1024, outputs=1024)
    assert sum(tensor.nbytes for tensor in layer.buffers()) * 8 <= 1024 * 1024 * bits


def test_t5s_last_layers_keep_float32_in_float16():
    block = nn.ModuleList([nn.ModuleDict({"wi": nn.Linear(64, 64), "wo": nn.Linear(64, 64)})])
    quantization.prepare(block_of(block), 8, torch.float16, {"wo"}, "cpu")
    assert (block[0]["wi"].dtype, block[0]["wo"].dtype) == (torch.float16, torch.float32)


def block_of(block):
    outer = nn.Module()
    outer.block, outer.proj_out = block, nn.Linear(64, 64)
    return outer


def test_layers_outside_of_blocks_and_rows_without_whole_groups_are_not_in_4_bits():
    outer = block_of(nn.ModuleList([nn.Linear(64, 64), nn.Linear(96, 64), nn.LayerNorm(64)]))
    quantization.prepare(outer, 4, torch.float32, set(), "cpu")
    assert [type(part) for part in outer.block] == [Linear4, Linear8, nn.LayerNorm]
    assert type(outer.proj_out) is nn.Linear


@pytest.mark.parametrize("name", ["8bit", "4bit"])
def test_a_model_runs_in_fewer_bits_and_tells_so(tmp_path, run, spec, name, runtime):
    cold = make_runtime("torch", tmp_path)
    result = run(cold, spec(quantization=name))
    assert result.summary.settled.quantization == name
    family = cold.opened.family
    kinds = {type(part) for part in family.module("transformer").modules()}
    assert LAYERS[name] in kinds or Linear8 in kinds
    assert not any(isinstance(part, QuantizedLinear) for part in family.module("vae").modules())
    exact = run(runtime, spec()).steps[0].x0
    assert relative(exact, result.steps[0].x0) < (0.02 if name == "8bit" else 0.2)
    assert result.images[0].tobytes() == run(cold, spec(quantization=name)).images[0].tobytes()


def test_without_the_library_fewer_bits_are_refused_and_nothing_else_is(monkeypatch):
    monkeypatch.delattr(tensors, "bitsandbytes_layers")
    monkeypatch.delitem(sys.modules, bitsandbytes_layers.__name__)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(EngineError, match="bitsandbytes, which is not installed") as caught:
        quantization.prepare(nn.Linear(64, 64), 8, torch.float32, set(), "cpu")
    assert (caught.value.kind, caught.value.data["path"]) == ("EngineUnavailable", "params.options.quantization")
    quantization.prepare(nn.Linear(64, 64), 0, torch.float32, set(), "cpu")


def test_a_device_for_which_the_library_has_no_kernels_is_named(tmp_path, run, spec, monkeypatch):
    def no_kernel(weight):
        raise RuntimeError("Method 'cquantize_blockwise' not available in CPU-only version of bitsandbytes.")

    monkeypatch.setattr(bitsandbytes_layers.kernels, "int8_vectorwise_quant", no_kernel)
    with pytest.raises(EngineError, match="does not work on cpu here") as caught:
        run(make_runtime("torch", tmp_path), spec(quantization="4bit"))
    assert caught.value.kind == "EngineUnavailable"


@pytest.mark.slow
def test_only_a_job_in_fewer_bits_waits_for_the_library(tmp_path):
    code = """
import sys
from locara_sidecar.engine.torch_engine import environment
from locara_sidecar.engine.torch_engine.tensors import quantization
environment.prepare(sys.argv[1])
environment.import_libraries()
import torch
from locara_sidecar.engine.torch_engine import runtime as torch_runtime
assert not [name for name in sys.modules if name.startswith("bitsandbytes")]
quantization.prepare(torch.nn.Linear(64, 64), 8, torch.float32, set(), "cpu")
from bitsandbytes.backends.default import ops  # what MPS would run
values, scales, code = torch.ones(32, dtype=torch.uint8), torch.ones(1), torch.ones(16)
ops._dequantize_4bit_compute(values, scales, code, 64, (1, 64), torch.float32)
assert not torch._dynamo.utils.counters["frames"], "torch compiled that"
assert torch.compile(torch.neg, backend="eager")(torch.ones(1)) == -1
assert torch._dynamo.utils.counters["frames"], "now nothing is compiled"
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_another_quantization_loads_again_and_auto_keeps_what_is_loaded(tmp_path, run, spec):
    cold = make_runtime("torch", tmp_path)
    assert ("loading", 1) in run(cold, spec(quantization="8bit")).phases
    kept = run(cold, spec(quantization="auto", prompt="a cat"))
    assert ("loading", 1) not in kept.phases
    assert kept.summary.settled.quantization == "8bit"
    changed = run(cold, spec(quantization="none"))
    assert ("loading", 1) in changed.phases
    assert changed.summary.settled.quantization == "none"


def test_auto_takes_fewer_bits_where_more_do_not_fit(tmp_path, run, spec):
    cold = make_runtime("torch", tmp_path)
    plan = cold.warm._plan

    def tight(family, ask, current, machine):
        wanted = msgspec.structs.replace(ask, quantization="8bit")
        least = min(one.peak for one in plans.candidates(family.parts, wanted, "ram"))
        barely = msgspec.structs.replace(machine, kind="ram", available=int(least / plans.COMFORT) + 1)
        return plan(family, ask, current, barely)

    cold.warm._plan = tight
    seen = []  # inside the loop, because the denoiser may be released at the end

    def look(event):
        if hasattr(event, "x0"):
            seen.append(cold.opened.family.module("transformer").transformer_blocks[0].attn.to_q)

    assert run(cold, spec(quantization="auto"), on_event=look).summary.settled.quantization == "8bit"
    assert {type(layer) for layer in seen} == {Linear8}


def test_a_cancel_while_quantizing_leaves_a_runtime_that_loads_again(tmp_path, run, spec, control):
    cold = make_runtime("torch", tmp_path)
    assert run(cold, spec(quantization="4bit"), control("loading", 150)).cancelled
    assert run(cold, spec(quantization="4bit")).images


def test_the_plans_figures_are_those_of_the_modules(tmp_path, run, spec):
    cold = make_runtime("torch", tmp_path)
    run(cold, spec())
    family = cold.opened.family
    for part in family.parts:
        module = family.module(part.name)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        assert part.parameters == pytest.approx(sum(tensor.numel() for tensor in tensors.values()), rel=0.02)
        if part.role != "decoder":
            linears = quantization.candidates(module).values()
            assert part.quantizable == sum(linear.weight.numel() for linear in linears)
    denoiser = next(part for part in family.parts if part.role == "denoiser")
    assert (denoiser.width, denoiser.stride) == (32, 16)


@pytest.mark.slow
def test_the_shipped_model_still_draws_what_it_is_asked_for(tmp_path, run, spec):
    from locara_sidecar.models import catalogue

    entry = catalogue.load().get("pocket")
    job = spec(
        path=str(catalogue.load().folder("pocket")),
        max_sequence_length=entry.defaults.max_sequence_length,
        prompt="a large red circle in the center of a blue background",
        steps=entry.defaults.steps,
        guidance=entry.defaults.guidance,
    )
    cold = make_runtime("torch", tmp_path)
    exact = np.asarray(run(cold, job).images[0], float)
    for name, least in (("8bit", 30.0), ("4bit", 15.0)):
        wanted = msgspec.structs.replace(job, model=msgspec.structs.replace(job.model, quantization=name))
        got = np.asarray(run(cold, wanted).images[0], float)
        assert 10 * np.log10(255**2 / max(((exact - got) ** 2).mean(), 1e-9)) > least
