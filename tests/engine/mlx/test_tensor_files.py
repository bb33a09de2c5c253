"""Tensors of every floating-point width as MLX reads them, and preparing a model in 8-bit floating point."""

import shutil

import mlx.core as mx
import numpy as np
import pytest

from locara_sidecar.engine.mlx_engine import runtime as mlx_runtime
from locara_sidecar.engine.mlx_engine.tensors import tensor_files as reader
from locara_sidecar.ipc.frames import PrepareSpec
from support import tensor_files
from support.runtimes import Control
from support.tensor_files import Stored


@pytest.mark.parametrize(("dtype", "exponent"), [("F8_E4M3", 4), ("F8_E5M2", 5)])
def test_every_value_of_8_bits_is_read_exactly(tmp_path, dtype, exponent):
    file = tmp_path / "a.safetensors"
    tensor_files.write(file, {"a": Stored(dtype, [16, 16], bytes(range(256)))})
    [(name, value, size)] = reader.tensors(file)
    read = np.array(value.astype(mx.float32)).reshape(256)
    finite = np.isfinite(expected := tensor_files.eight_bits(exponent))
    assert (name, size) == ("a", 256)
    assert np.array_equal(read[finite], expected[finite])
    assert not np.isfinite(read[~finite]).any()


@pytest.mark.parametrize("beside", ["F32", "F64"])
def test_types_are_mixed_in_one_file(tmp_path, beside):
    """MLX refuses a whole file if one tensor is float64; then NumPy reads it."""
    file = tmp_path / "a.safetensors"
    numbers = np.array([[1.5, -2.0, 0.25]])
    stored = {
        "bf16": Stored("BF16", [1, 3], (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()),
        "f16": Stored("F16", [1, 3], numbers.astype(np.float16).tobytes()),
        "f32": Stored("F32", [1, 3], numbers.astype(np.float32).tobytes()),
        "other": Stored(beside, [1, 3], numbers.astype({"F32": np.float32, "F64": np.float64}[beside]).tobytes()),
    }
    tensor_files.write(file, stored)
    read = {name: np.array(value.astype(mx.float32)).tolist() for name, value, _ in reader.tensors(file)}
    assert read == dict.fromkeys(stored, numbers.tolist())


def test_a_model_in_8_bits_of_floating_point_is_prepared_like_the_same_numbers_in_float32(job_for, tiny_sd3, tmp_path):
    made = []
    for form in (0, 1):
        folder = shutil.copytree(tiny_sd3, tmp_path / f"model-{form}")
        for file in (folder / "transformer").glob("*.safetensors"):
            tensor_files.change(file, lambda _, tensor, form=form: tensor_files.narrowed(tensor, "F8_E4M3")[form])
        (into := tmp_path / f"form-{form}").mkdir()
        model = job_for("tiny-sd3", path=str(folder), quantization="4bit", precision="float32").model
        mlx_runtime.create().prepare(PrepareSpec(job="p", model=model, into=str(into)), lambda _: None, Control())
        made.append({path.name: path.read_bytes() for path in into.rglob("*.safetensors")})
    assert made[0]
    assert made[0] == made[1]
