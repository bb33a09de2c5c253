"""Weights of every type that safetensors knows give the right picture, or a refusal that names the tensor."""

import json
import shutil

import pytest

from locara_sidecar.ipc.errors import EngineError
from support import tensor_files
from support.fixture_models import MODELS
from support.tensor_files import Stored

pytestmark = pytest.mark.slow

PARTS = {"tiny-sdxl": "unet"}
LAYER = "transformer_blocks.0.attn.to_q"


def files(folder, part):
    return sorted((folder / part).glob("*.safetensors"))


def both_forms(tmp_path, model, dtype, chosen):
    """Return two copies of a model with the same values in some tensors: stored as ``dtype``, and as float32."""
    narrow, wide = (shutil.copytree(MODELS / model, tmp_path / name) for name in ("narrow", "wide"))
    for part in chosen:
        for file, other in zip(files(narrow, part), files(wide, part), strict=True):
            found = {
                name: tensor_files.narrowed(tensor, dtype)
                if tensor.dtype in ("F16", "BF16", "F32")
                else (tensor, tensor)
                for name, tensor in tensor_files.read(file).items()
            }
            tensor_files.write(file, {name: forms[0] for name, forms in found.items()})
            tensor_files.write(other, {name: forms[1] for name, forms in found.items()})
    return narrow, wide


@pytest.mark.quick_cases("torch-F8_E4M3-4bit", "mlx-F8_E4M3", "mlx-F64-none")
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        ("F8_E4M3", "none"),
        ("F8_E4M3", "8bit"),
        ("F8_E4M3", "4bit"),
        ("F8_E5M2", "none"),
        ("F8_E5M2", "4bit"),
        ("F64", "none"),
        ("F64", "8bit"),
    ],
)
def test_numbers_of_other_widths_draw_what_the_same_numbers_draw_in_float32(
    runtime, tmp_path, run, spec, dtype, quantization
):
    narrow, wide = both_forms(tmp_path, "tiny-sd3", dtype, ("transformer", "text_encoder_3", "text_encoder", "vae"))
    drawn, expected = (
        run(runtime, spec(path=str(path), digest=str(path), quantization=quantization, steps=1))
        for path in (narrow, wide)
    )
    assert drawn.images[0].tobytes() == expected.images[0].tobytes()


@pytest.mark.quick_cases("tiny-flux")
@pytest.mark.parametrize("model", ["tiny-flux", "tiny-sdxl"])
def test_other_families_read_8_bits_without_scales(runtimes, tmp_path, run, job_for, model):
    parts = [
        path.parent.name for path in sorted((MODELS / model).glob("*/config.json")) if path.parent.name != "tiny_vae"
    ]
    narrow, wide = both_forms(tmp_path, model, "F8_E4M3", parts)
    drawn, expected = (
        run(runtimes(model), job_for(model, path=str(path), digest=str(path), steps=1)) for path in (narrow, wide)
    )
    assert drawn.images[0].tobytes() == expected.images[0].tobytes()


def refused(runtime, run, spec, folder):
    events = []
    with pytest.raises(EngineError) as caught:
        run(runtime, spec(path=str(folder), digest=str(folder)), on_event=events.append)
    assert {event.phase for event in events} == {"loading"}
    return caught.value


@pytest.mark.parametrize("quantization", ["none", "8bit"])
def test_8_bit_integers_with_their_scales_are_refused_by_name(runtime, copy, run, spec, quantization):
    """As bitsandbytes saves a model; using the integers as weights would draw noise."""
    file = sorted((copy / "transformer").glob("*.safetensors"))[0]
    found = tensor_files.read(file)
    layer = next(name for name in found if name.endswith("attn.to_q.weight"))
    rows, columns = found[layer].shape
    found[layer] = Stored("I8", [rows, columns], bytes(rows * columns))
    found[layer.replace(".weight", ".SCB")] = Stored("F32", [rows], bytes(4 * rows))
    tensor_files.write(file, found)
    fault = refused(runtime, run, lambda **more: spec(quantization=quantization, **more), copy)
    assert fault.kind == "IntegrityError"
    assert f"transformer/{file.name}" in fault.message
    assert layer.rpartition(".")[0] in fault.message


def test_a_quantization_config_is_refused_by_that_name(runtime, copy, run, spec):
    path = copy / "text_encoder_3/config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes"}}
    path.write_text(json.dumps(config))
    fault = refused(runtime, run, spec, copy)
    assert fault.kind == "IntegrityError"
    assert "quantization_config" in fault.message
    assert "text_encoder_3/config.json" in fault.message
