"""Folders that diffusers saved for another pipeline with the same parts, such as the one for edits, are drawn with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine.supported import FAMILIES
from support import published

pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# diffusers 0.42 converts its levels in a way that NumPy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LEAST = {"torch": 1, "mlx": 2}
"""The largest difference allowed, in levels of 255."""
MODELS = {"sd3": "sd3.5", "flux": "flux-dev", "flux-kontext": "flux-kontext", "sdxl": "sdxl", "z-image": "z-image"}
MODELS |= {"flux2": "flux2-klein"}
SAVED = [(MODELS[row.name], name) for row in FAMILIES.values() for name in sorted(row.edit_pipelines)]


def saved(tmp_path, model, name):
    """The model as diffusers' own ``save_pretrained`` writes it for the pipeline of that name."""
    pipe = getattr(diffusers, name).from_pretrained(str(published.FOLDER / model), local_files_only=True)
    pipe.save_pretrained(tmp_path / model)
    index = json.loads((tmp_path / model / "model_index.json").read_text())
    assert index["_class_name"] == name
    return tmp_path / model


def copied(tmp_path, model, **members):
    """A published model with other members in its index."""
    folder = Path(shutil.copytree(published.FOLDER / model, tmp_path / "copied"))
    change(folder / "model_index.json", **members)
    return folder


def change(file, **members):
    file.write_text(json.dumps(json.loads(file.read_text()) | members))


def differ(mine, theirs):
    mine, theirs = (np.asarray(picture).astype(int) for picture in (mine, theirs))
    assert mine.shape == theirs.shape
    assert theirs.std() > 5  # a picture, not a plain colour
    return np.abs(mine - theirs).max()


def test_every_pipeline_is_one_that_diffusers_has():
    assert len(SAVED) == 10
    assert all(hasattr(diffusers, name) for _, name in SAVED)


@pytest.mark.quick_cases("StableDiffusionXLInpaintPipeline", "torch-FluxImg2ImgPipeline")
@pytest.mark.parametrize(("model", "name"), SAVED, ids=[name for _, name in SAVED])
def test_a_folder_that_was_saved_for_edits_draws_and_edits_as_diffusers_does_from_it(
    engine, cold, run, spec, tmp_path, model, name
):
    path = str(saved(tmp_path, model, name))
    job = published.job(spec, model, path=path)
    assert differ(run(cold, job).images[0], published.picture(model, job)) <= LEAST[engine]
    changed = published.edits(spec, model, path=path)
    assert differ(run(cold, changed).images[0], published.picture(model, changed)) <= LEAST[engine]


@pytest.mark.parametrize(
    "name", ["FluxFillPipeline", "FluxControlPipeline", "FluxKontextPipeline", None, ["FluxPipeline"]]
)
def test_a_pipeline_with_other_parts_or_another_meaning_is_refused_by_name(cold, run, spec, tmp_path, name):
    folder = copied(tmp_path, "flux-schnell", _class_name=name)
    with pytest.raises(EngineError) as caught:
        run(cold, published.job(spec, "flux-schnell", path=str(folder)))
    assert caught.value.kind == "IntegrityError"
    assert caught.value.data["files"] == ["model_index.json"]
    assert f"it describes {name!r}, not FluxPipeline" in str(caught.value)


def test_a_refiner_is_refused_by_the_score_that_it_takes(cold, run, spec, tmp_path):
    members = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    with pytest.raises(EngineError, match="score of how beautiful") as caught:
        run(cold, published.job(spec, "sdxl", path=str(copied(tmp_path, "sdxl", **members))))
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", ["model_index.json"])


@pytest.mark.parametrize(
    ("model", "name", "config", "channels", "out"),
    [
        ("sdxl", "StableDiffusionXLInpaintPipeline", "unet/config.json", 9, 4),
        ("sd3.5", "StableDiffusion3InpaintPipeline", "transformer/config.json", 33, 16),
        ("flux-dev", "FluxInpaintPipeline", "transformer/config.json", 384, 64),
    ],
)
def test_a_network_that_sees_a_mask_is_refused_by_its_channels(
    cold, run, spec, tmp_path, model, name, config, channels, out
):
    folder = copied(tmp_path, model, _class_name=name)
    change(folder / config, in_channels=channels, out_channels=out)
    with pytest.raises(EngineError, match=f"in_channels is {channels}, and a latent has .* are not run") as caught:
        run(cold, published.job(spec, model, path=str(folder)))
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", [config])
