"""Quantized layers: which ones, how exact, how little memory they take, and the same from a prepared component."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from mlx import nn
from mlx.utils import tree_flatten
from transformers import T5Config, T5EncoderModel

from locara_sidecar import models
from locara_sidecar.engine.folder import model_folder
from locara_sidecar.engine.folder.model_folder import Progress
from locara_sidecar.engine.mlx_engine.denoisers.flux import Flux
from locara_sidecar.engine.mlx_engine.denoisers.flux2 import Flux2Transformer
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mmdit
from locara_sidecar.engine.mlx_engine.families.family import OpenContext
from locara_sidecar.engine.mlx_engine.pace import Checkpoints
from locara_sidecar.engine.mlx_engine.tensors import quantize
from locara_sidecar.engine.mlx_engine.texts.t5 import T5Encoder
from locara_sidecar.engine.runtime import JobCancelled
from locara_sidecar.ipc.errors import EngineError
from support.parity import error, pixel_difference, randomise, save
from support.runtimes import make_runtime

WIDE = {
    "in_channels": 64, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 64, "num_attention_heads": 2,
    "joint_attention_dim": 96, "pooled_projection_dim": 64, "axes_dims_rope": (16, 24, 24), "guidance_embeds": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def component(tmp_path_factory):
    return save(randomise(FluxTransformer2DModel(**WIDE)), tmp_path_factory.mktemp("wide"), "transformer", "800KB")


def build(component, bits, model_type=Flux, dtype=mx.float32):
    return quantize.build(model_type, component, dtype, Progress(component.size, lambda _: None, lambda: None), bits)


def call(model):
    generator = torch.Generator().manual_seed(3)
    shapes = (1, 8, 8, 16), (1, 5, 96), (1, 64)
    latent, tokens, pooled = (mx.array(torch.randn(shape, generator=generator).numpy()) for shape in shapes)
    by = model.modulation(mx.array([500.0]), pooled, 3.5).at(0)
    return model(latent, model.words(tokens), by, model.rotation(5, (8, 8)))


def test_layers_inside_the_blocks_are_quantized_and_no_others(component):
    model = build(component, 4)
    kinds = {name: type(module) for name, module in model.named_modules() if "weight" in module}
    quantized = {name for name, kind in kinds.items() if kind is nn.QuantizedLinear}
    linear = {name for name, kind in kinds.items() if kind is nn.Linear}
    assert quantized == {name for name in quantized | linear if name.startswith(("doubles.", "singles."))}
    assert {"image", "text", "modulation_out", "proj_out", "time.linear_1", "guidance.linear_2"} <= linear
    assert "singles.1.modulation" in quantized
    stored = dict(tree_flatten(model.parameters()))
    assert stored["singles.0.proj_mlp.weight"].dtype == mx.uint32
    assert stored["singles.0.proj_mlp.weight"].shape == (512, 128 * 4 // 32)
    assert stored["singles.0.proj_mlp.scales"].shape == (512, 128 // 64)


@pytest.mark.parametrize(("bits", "least", "most"), [(8, 1e-5, 0.02), (4, 1e-3, 0.35)])
def test_a_call_stays_near_the_exact_one(component, bits, least, most):
    apart = error(call(build(component, bits)), np.array(call(build(component, None))))
    assert least < apart < most


def test_each_weight_is_within_a_step_of_its_group(component):
    exact = dict(tree_flatten(build(component, None).parameters()))["doubles.0.ff.proj_in.weight"]
    layer = build(component, 4).doubles[0].ff.proj_in
    got = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=64, bits=4)
    groups, found = (np.array(value).reshape(512, 2, 64) for value in (exact, got))
    step = (groups.max(-1) - groups.min(-1)) / 15
    apart = np.abs(groups - found) / step[..., None]
    assert apart.max() <= 1.0  # MLX shifts the steps so that 0 is one of them
    assert apart.mean() < 0.3


def test_rows_of_broken_groups_stay_as_they_are(tmp_path):
    config = T5Config(
        vocab_size=100, d_model=96, d_kv=32, d_ff=128, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    made = save(randomise(T5EncoderModel(config)), tmp_path, "t5")
    model = build(made, 8, T5Encoder)
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["blocks.1.wo"] is nn.QuantizedLinear  # 128 wide
    assert kinds["blocks.1.wi_0"] is nn.Linear  # 96 wide
    assert kinds["shared"] is nn.Embedding


def prepared(component, folder, bits=4):
    quantize.save(build(component, bits), component, bits, folder, lambda: None)
    return model_folder.read_component(folder, "transformer", "FluxTransformer2DModel", "diffusion_pytorch_model")


def test_a_prepared_component_is_the_quantized_one_and_smaller(component, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "_SHARD_BYTES", 200_000)
    ready = prepared(component, tmp_path)
    assert len(ready.files) > 1
    assert ready.size < component.size / 3
    assert (np.array(call(build(ready, 4))) == np.array(call(build(component, 4)))).all()


def test_a_component_that_another_engine_had_begun_to_write_is_written_anew(component, tmp_path):
    """An update may replace an engine at work; the next one is given the same folder."""
    begun = tmp_path / component.name
    begun.mkdir()
    for name in ("diffusion_pytorch_model-00001-of-00009.safetensors", "config.json"):
        (begun / name).write_bytes(b"half")
    ready = prepared(component, tmp_path)
    assert {path.name for path in begun.glob("*.safetensors")} == {path.name for path in ready.files}
    assert (np.array(call(build(ready, 4))) == np.array(call(build(component, 4)))).all()


@pytest.mark.parametrize("asked", [None, 8])
def test_a_prepared_component_is_not_read_as_something_else(component, tmp_path, asked):
    ready = prepared(component, tmp_path)
    with pytest.raises(EngineError) as caught:
        build(ready, asked)
    assert caught.value.kind == "IntegrityError"


def test_a_prepared_component_of_strange_groups_is_refused(component, tmp_path):
    ready = prepared(component, tmp_path)
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization": {"bits": 4, "group_size": "many"}}))
    broken = model_folder.read_component(tmp_path, "transformer", "FluxTransformer2DModel", "diffusion_pytorch_model")
    assert broken.files == ready.files
    with pytest.raises(EngineError) as caught:
        build(broken, 4)
    assert caught.value.kind == "IntegrityError"


def test_loading_leaves_no_chain_of_random_numbers_behind(component):
    """Every module starts with random weights; the key that they come from must not keep references to them all."""
    mx.random.seed(0)
    untouched = np.array(mx.random.state[0])
    build(component, 4)
    assert (np.array(mx.random.state[0]) == untouched).all()


def test_reading_holds_the_result_and_one_tensor(component):
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = build(component, 4)
    held = mx.get_active_memory() - before
    assert held >= sum(value.nbytes for _, value in tree_flatten(model.parameters()))  # nothing is deferred
    largest = max(value.nbytes for value in mx.load(str(component.files[0])).values())
    for path in component.files[1:]:
        largest = max(largest, *(value.nbytes for value in mx.load(str(path)).values()))
    assert mx.get_peak_memory() - before <= held + 1.25 * largest
    del model


@pytest.mark.parametrize(
    ("model", "denoiser"), [("tiny-flux", Flux), ("tiny-flux2", Flux2Transformer), ("tiny-sd3", Mmdit)]
)
def test_a_loaded_denoiser_is_split(run, job_for, tmp_path, monkeypatch, model, denoiser):
    """What splitting does is tested with each denoiser."""
    split = []
    monkeypatch.setattr(denoiser, "split", lambda self: split.append(self))
    run(make_runtime("mlx", tmp_path), job_for(model))
    assert [type(one) for one in split] == [denoiser]


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "most"), [("8bit", 0.5), ("4bit", 4.0)])
def test_the_shipped_model_draws_nearly_the_same_picture_quantized(run, spec, quantization, most):
    from locara_sidecar.engine.mlx_engine import runtime as mlx_runtime

    options = {"path": str(Path(models.__file__).parent / "pocket"), "max_sequence_length": 1}
    options |= {"prompt": "a large red circle in the center of a blue background", "steps": 6, "guidance": 3.0}
    options |= {"width": 128, "height": 128}  # what it was trained on
    runtime = mlx_runtime.create()
    exact = run(runtime, spec(**options, quantization="none"))
    quantized = run(runtime, spec(**options, quantization=quantization))
    assert [result.summary.settled.quantization for result in (exact, quantized)] == ["none", quantization]
    assert 0 < pixel_difference(quantized.images[0], exact.images[0]) < most


def test_a_quantization_that_does_not_exist_is_refused(run, spec):
    from locara_sidecar.engine.mlx_engine import runtime as mlx_runtime

    with pytest.raises(EngineError) as caught:
        run(mlx_runtime.create(), spec(quantization="3bit"))
    assert caught.value.kind == "EngineUnavailable"


def test_preparing_stops_when_cancelled(spec, tmp_path):
    from locara_sidecar.engine.mlx_engine.families.sd3 import Sd3

    def cancelled():
        raise JobCancelled

    pocket = Path(models.__file__).parent / "pocket"
    family = Sd3.open(OpenContext(pocket, mx.float32, spec().model.sides, Checkpoints(), bits=8))
    with pytest.raises(JobCancelled):
        family.prepare(["transformer"], tmp_path, Progress(1, lambda _: None, cancelled))
