"""Previews show what the picture will be."""

import json
import shutil

import numpy as np
import pytest

from locara_sidecar.engine.previews import linear_preview
from locara_sidecar.ipc.errors import EngineError
from support.edits import edit, photo
from support.fixture_models import MODELS


@pytest.mark.parametrize("mode", ["linear", "full"])
@pytest.mark.parametrize("max_side", [16, 40, 64, 256])
def test_a_preview_keeps_the_shape_and_the_longest_side_allowed(runtime, run, spec, mode, max_side):
    x0 = run(runtime, spec(width=96, height=48, steps=1)).steps[-1].x0
    picture, decoder = runtime.preview(x0, mode, max_side)
    assert (decoder, picture.mode) == (mode, "RGB")
    assert picture.size == (min(max_side, 96), min(max_side, 96) // 2)


@pytest.mark.parametrize("edited", [False, True])
def test_the_full_preview_of_the_last_step_is_the_picture(runtimes, run, job_for, model, edited):
    strength = None if model in ("tiny-flux-kontext", "tiny-flux2") else 0.6
    runtime, source = runtimes(model), edit(photo(96, 64), strength=strength)
    result = run(runtime, job_for(model, width=96, height=64, edit=source if edited else None))
    picture, _ = runtime.preview(result.steps[-1].x0, "full", 256)
    difference = np.asarray(picture, int) - np.asarray(result.images[0], int)
    assert np.abs(difference).max() <= 1


def test_modes_that_the_model_has_not_give_none(cold, runtime, run, spec):
    x0 = run(runtime, spec()).steps[-1].x0
    assert runtime.preview(x0, "tiny", 64) is None
    assert runtime.preview(x0, "off", 64) is None
    assert cold.preview(x0, "linear", 64) is None


@pytest.fixture
def with_tiny(copy):
    """Return the model with the tiny decoder of another fixture; their latents have the same shape."""
    shutil.copytree(MODELS / "tiny-flux" / "tiny_vae", copy / "tiny_vae")
    return copy


def test_a_tiny_decoder_beside_the_model_is_used(cold, with_tiny, run, spec):
    shown = []

    def look(event):
        if hasattr(event, "x0"):
            shown.append(cold.preview(event.x0, "tiny", 48))

    plain = run(cold, spec(path=str(with_tiny)))
    result = run(cold, spec(path=str(with_tiny), mode="tiny"), on_event=look)
    assert [(picture.size, decoder) for picture, decoder in shown] == [((48, 48), "tiny")] * 3
    assert len({picture.tobytes() for picture, _ in shown}) == 3
    assert result.images[0].tobytes() == plain.images[0].tobytes()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("diffusion_pytorch_model.safetensors", b"noise"),
        ("config.json", b"{"),
        ("config.json", b'{"decoder_block_out_channels": [4, 4, 4, 4]}'),
    ],
)
def test_a_broken_tiny_decoder_costs_only_its_previews(cold, with_tiny, run, spec, caplog, file, content):
    (with_tiny / "tiny_vae" / file).write_bytes(content)
    result = run(cold, spec(path=str(with_tiny), mode="tiny"))
    assert cold.preview(result.steps[-1].x0, "tiny", 48) is None
    assert result.images
    assert "the tiny preview decoder cannot be used" in caplog.text


def test_an_autoencoder_of_no_numbers_is_told_as_that(cold, copy, run, spec):
    """The fit of its previews does not converge, which is not the engine's fault."""
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    with pytest.raises(EngineError, match="numbers that are not finite") as told:
        run(cold, spec(path=str(copy), mode="linear"))
    assert told.value.kind == "InvalidOutput"


def test_a_matrix_of_no_numbers_is_passed_over(tmp_path):
    """Each used to be an InternalError of every job, or accepted."""
    good = {"format": linear_preview.FORMAT, "latentChannels": 1, "matrix": [[0, 0, 0]], "bias": [1, -1, -1]}
    wrong = [
        *([], None, 1, good | {"bias": "abc"}, good | {"bias": [10**400] * 3}, good | {"bias": [float("nan")] * 3}),
        *(good | {"matrix": matrix} for matrix in ([[10**400, 0, 0]], [[[]]], [[{}, 0, 0]])),
    ]
    for value in wrong:
        (tmp_path / linear_preview.FILE_NAME).write_text(json.dumps(value))
        assert linear_preview.read(tmp_path, 1) is None
    (tmp_path / linear_preview.FILE_NAME).write_text(json.dumps(good))
    assert linear_preview.read(tmp_path, 1) is not None


def test_a_matrix_beside_the_model_is_used_instead_of_fitting(cold, copy, run, spec):
    red = {"format": linear_preview.FORMAT, "latentChannels": 16, "matrix": [[0, 0, 0]] * 16, "bias": [1, -1, -1]}
    (copy / linear_preview.FILE_NAME).write_text(json.dumps(red))
    x0 = run(cold, spec(path=str(copy), mode="linear")).steps[-1].x0
    assert cold.preview(x0, "linear", 64)[0].getcolors() == [(64 * 64, (255, 0, 0))]
