"""Sizes that a model's files cannot produce: the entry's are refused on import, a job's before anything is
loaded."""

import json
import shutil

import pytest

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.ipc.frames import Sides
from support.fixture_models import MODELS

diffusers = pytest.importorskip("diffusers", reason="makes the folders")
SIDES = {"minimum": 16, "maximum": 1024, "multiple_of": 16, "max_pixels": 1 << 20}


@pytest.fixture
def remade(tmp_path):
    """Return a copy of a model in which one network is replaced by another of the same configuration, with changes."""

    def make(model, part, cls, **changes):
        folder = shutil.copytree(MODELS / model, tmp_path / "model")
        config = json.loads((folder / part / "config.json").read_text()) | changes
        shutil.rmtree(folder / part)
        getattr(diffusers, cls).from_config(config).save_pretrained(str(folder / part))
        return folder

    return make


@pytest.fixture
def small_table(remade):
    """An SD3 whose position table covers 48 pixels per side."""
    return remade("tiny-sd3", "transformer", "SD3Transformer2DModel", pos_embed_max_size=3)


@pytest.fixture
def coarse(remade):
    """An SDXL whose autoencoder has one latent for 16 × 16 pixels."""
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 5, "up_block_types": ["UpDecoderBlock2D"] * 5}
    return remade("tiny-sdxl", "vae", "AutoencoderKL", block_out_channels=[16, 16, 16, 16, 16], **kinds)


def refused(runtime, run, spec):
    """Return the error, before which nothing may have been loaded."""
    events = []
    with pytest.raises(EngineError) as caught:
        run(runtime, spec, on_event=events.append)
    assert {(event.phase, event.fraction) for event in events} <= {("loading", 0.0)}
    return caught.value


@pytest.mark.parametrize(
    ("size", "sides", "path", "maximum"),
    [
        ({"width": 64}, {}, "$.options.width", 48),
        ({"height": 64}, {}, "$.options.height", 48),
        ({"width": 64, "height": 96}, {"multiple_of": 32}, "$.options.width", 32),
    ],
)
def test_a_side_that_there_are_no_positions_for_is_told_with_the_largest_that_the_entry_allows(
    cold, run, job_for, small_table, size, sides, path, maximum
):
    sides = Sides(**SIDES | sides)
    fault = refused(
        cold, run, job_for("tiny-sd3", path=str(small_table), sides=sides, **{"width": 32, "height": 32} | size)
    )
    assert (fault.kind, fault.data) == ("InvalidParams", {"path": path, "maximum": maximum})
    assert str(maximum) in fault.message
    works = job_for("tiny-sd3", path=str(small_table), sides=sides, width=maximum, height=maximum, steps=1)
    assert run(cold, works).images[0].size == (maximum, maximum)


def test_a_model_that_has_no_positions_for_any_size_of_its_entry_is_no_fault_of_the_job(
    cold, run, job_for, small_table
):
    sides = Sides(**SIDES | {"minimum": 64})
    fault = refused(cold, run, job_for("tiny-sd3", path=str(small_table), sides=sides))
    assert (fault.kind, fault.data["files"]) == ("IntegrityError", ["transformer/config.json"])


def test_a_table_that_is_not_as_its_configuration_says_is_the_folders_fault(cold, run, job_for, tmp_path):
    folder = shutil.copytree(MODELS / "tiny-sd3", tmp_path / "model")
    config = json.loads((folder / "transformer/config.json").read_text()) | {"pos_embed_max_size": 2}
    (folder / "transformer/config.json").write_text(json.dumps(config))
    fault = refused(cold, run, job_for("tiny-sd3", path=str(folder)))
    assert (fault.kind, fault.data["files"]) == ("IntegrityError", ["transformer/config.json"])


@pytest.mark.slow
def test_a_side_between_two_latents_is_told_with_the_nearest_that_is_none(cold, run, job_for, coarse):
    fault = refused(cold, run, job_for("tiny-sdxl", path=str(coarse), width=72, height=64))
    assert (fault.kind, fault.data) == ("InvalidParams", {"path": "$.options.width", "nearest": 64})
    assert "64" in fault.message
    fault = refused(cold, run, job_for("tiny-sdxl", path=str(coarse), width=64, height=88))
    assert fault.data == {"path": "$.options.height", "nearest": 96}
    job = job_for("tiny-sdxl", path=str(coarse), width=96, height=64, steps=1)
    assert run(cold, job).images[0].size == (96, 64)


@pytest.mark.parametrize(
    ("model", "fixture", "good", "bad", "file"),
    [
        ("tiny-sd3", "small_table", (48, 32), (48, 64), "transformer/config.json"),
        ("tiny-sdxl", "coarse", (64, 96), (72, 64), "vae/config.json"),
    ],
)
def test_an_import_asks_for_the_entrys_own_size(cold, job_for, control, request, model, fixture, good, bad, file):
    spec = job_for(model, path=str(request.getfixturevalue(fixture)))
    cold.warm.check(spec.model, spec.scheduler, control(), good)
    with pytest.raises(EngineError) as caught:
        cold.warm.check(spec.model, spec.scheduler, control(), bad)
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", [file])
    assert " × ".join(map(str, bad)) in caught.value.message
