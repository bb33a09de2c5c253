"""SDXL's smaller relatives on every engine: folders with their UNet shapes and random weights, against diffusers."""

import json
import shutil

import numpy as np
import pytest
import torch

from locara_sidecar.ipc.errors import EngineError
from support import diffusers_reference as reference
from support.diffusers_reference import TEXT
from support.fixture_models import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
MODEL = "tiny-sdxl"
SHAPES = {
    "SSD-1B": {
        "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [0, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "Koala 1B": {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 6]},
    "Koala 700M": {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 5], "mid_block_type": None},
    "lists": {"layers_per_block": [1, 2, 3], "transformer_layers_per_block": [1, 2, 1]},
}  # fmt: skip


@pytest.fixture(scope="module")
def relative(tmp_path_factory):
    """Return a folder like the fixture's with another UNet, and diffusers' pipeline for it."""
    import diffusers

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("relative") / "model"
            shutil.copytree(MODELS / MODEL, folder)
            config = json.loads((folder / "unet" / "config.json").read_text()) | SHAPES[name]
            shutil.rmtree(folder / "unet")
            torch.manual_seed(3)
            diffusers.UNet2DConditionModel.from_config(config).save_pretrained(str(folder / "unet"))
            pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
                str(folder), dtype=torch.float32, local_files_only=True, add_watermarker=False
            )
            pipe.set_progress_bar_config(disable=True)
            made[name] = folder, pipe
        return made[name]

    made = {}
    return make


@pytest.mark.quick_cases("Koala 700M", "lists")
@pytest.mark.parametrize("name", SHAPES)
def test_a_picture_of_a_smaller_relative_is_diffusers(engine, cold, run, job_for, relative, monkeypatch, name):
    folder, pipe = relative(name)
    spec = job_for(MODEL, path=str(folder), steps=4, width=96, guidance=5.0, negative_prompt="a dog", scheduler="euler")
    result = run(cold, spec)
    monkeypatch.setattr(reference, "pipeline", lambda model, way: pipe)
    with reference.drawing(MODEL, TEXT, spec.seed):
        theirs = reference.picture(MODEL, spec)
    difference = np.abs(np.array(result.images[0]).astype(int) - np.array(theirs)).max()
    assert difference <= (0 if engine == "torch" else 2)
    assert np.array(theirs).std() > 5


@pytest.mark.quick_cases("8bit")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_smaller_relative_can_be_quantized(cold, run, job_for, relative, bits):
    folder, _ = relative("SSD-1B")
    result = run(cold, job_for(MODEL, path=str(folder), steps=1, quantization=bits, scheduler="euler"))
    assert result.summary.settled.quantization == bits


def test_a_shape_that_makes_no_unet_is_refused_by_name(cold, run, job_for, relative, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(relative("SSD-1B")[0], folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["reverse_transformer_layers_per_block"] = None
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError) as caught:
        run(cold, job_for(MODEL, path=str(folder), scheduler="euler"))
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", ["unet/config.json"])
