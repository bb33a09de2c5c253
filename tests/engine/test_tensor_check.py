"""Which tensors a component may have; checking that needs no engine."""

import json
import shutil

import numpy as np
import pytest

from locara_sidecar.engine.folder import model_folder, tensor_check
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.weights import safetensors_header
from support import tensor_files
from support.fixture_models import MODELS
from support.tensor_files import Stored

LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(MODELS / "tiny-flux/transformer", tmp_path / "transformer").parent


def file_of(folder):
    """The shard with the layer that gets changed."""
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    return next(shard for shard in shards if f"{LAYER}.weight" in tensor_files.read(shard))


def check(folder, *, prepared=False):
    component = model_folder.read_component(folder, "transformer", "FluxTransformer2DModel", "diffusion_pytorch_model")
    return tensor_check.check(component, prepared=prepared)


def refused(folder, **how):
    with pytest.raises(EngineError) as caught:
        check(folder, **how)
    assert caught.value.kind == "IntegrityError"
    assert file_of(folder).name in caught.value.message
    return caught.value.message


def test_the_table_names_each_type_that_safetensors_knows():
    known = tensor_check.TAKEN | tensor_check.WIDENED | tensor_check.REFUSED.keys()
    assert known == safetensors_header._BITS.keys()
    assert not (tensor_check.TAKEN | tensor_check.WIDENED) & tensor_check.REFUSED.keys()


def retyped(folder, dtype):
    """Convert the first layer's matrix to ``dtype``."""

    def of_type(name, tensor):
        if name != f"{LAYER}.weight":
            return tensor
        return Stored(dtype, tensor.shape, bytes(safetensors_header._BITS[dtype] * int(np.prod(tensor.shape)) // 8))

    tensor_files.change(file_of(folder), of_type)


@pytest.mark.parametrize("dtype", sorted(tensor_check.TAKEN | tensor_check.WIDENED))
def test_floating_point_numbers_are_taken(folder, dtype):
    retyped(folder, dtype)
    assert check(folder)[f"{LAYER}.weight"].dtype == dtype


@pytest.mark.parametrize("dtype", sorted(tensor_check.REFUSED))
def test_other_types_are_refused_with_the_tensors_name(folder, dtype):
    retyped(folder, dtype)
    message = refused(folder)
    assert f"{LAYER}.weight is {dtype}" in message


MARKS = [
    "SCB",
    "weight.absmax",
    "weight.quant_map",
    "weight.quant_state.bitsandbytes__nf4",
    "weight_scale",
    "weight_scale_inv",
    "weight_scale_2",
    "input_scale",
    "scale_weight",
    "scale_input",
    "scale",
    "scales",
    "zero_point",
    "comfy_quant",
    "qweight",
    "g_idx",
    "wscales",
    "smooth_factor",
    "lora_A.default.weight",
    "weight_g",
]


@pytest.mark.parametrize("name", [*(f"{LAYER}.{mark}" for mark in MARKS), "scaled_fp8"])
def test_tensors_of_quantized_or_adapted_layers_are_refused_by_name(folder, name):
    file = file_of(folder)
    tensor_files.write(file, {**tensor_files.read(file), name: Stored("F32", [1], bytes(4))})
    message = refused(folder)
    assert name in message
    assert "unquantized" in message


@pytest.mark.parametrize("name", ["_quantization_metadata", "quantization_config"])
def test_metadata_that_tells_of_quantizing_is_refused(folder, name):
    file = file_of(folder)
    tensor_files.write(file, tensor_files.read(file), {"format": "pt", name: "{}"})
    assert name in refused(folder)


@pytest.mark.parametrize("dtype", ["I64", "I32", "F32"])
def test_counted_positions_of_older_files_may_be_of_any_type(folder, dtype):
    file = file_of(folder)
    positions = Stored(dtype, [1, 77], bytes(77 * safetensors_header._BITS[dtype] // 8))
    tensor_files.write(file, {**tensor_files.read(file), "text_model.embeddings.position_ids": positions})
    assert check(folder)


def test_words_are_taken_only_in_what_was_prepared(folder):
    file = file_of(folder)
    found = tensor_files.read(file)
    rows, columns = found[f"{LAYER}.weight"].shape
    packed = {
        f"{LAYER}.weight": Stored("U32", [rows, columns // 4], bytes(rows * columns)),
        f"{LAYER}.scales": Stored("BF16", [rows, 1], bytes(2 * rows)),
        f"{LAYER}.biases": Stored("BF16", [rows, 1], bytes(2 * rows)),
    }
    tensor_files.write(file, {**found, **packed}, {"format": "mlx"})
    assert check(folder, prepared=True)
    assert LAYER in refused(folder)


def test_a_header_is_read_as_it_is_written(folder):
    path = file_of(folder)
    found, metadata = tensor_check.headers(path)
    data = path.read_bytes()
    for name, stored in tensor_files.read(path).items():
        tensor = found[name]
        assert (tensor.dtype, list(tensor.shape)) == (stored.dtype, stored.shape)
        assert data[tensor.start : tensor.start + tensor.size] == stored.data
    assert all(isinstance(value, str) for value in metadata.values())
    assert json.dumps(metadata)
