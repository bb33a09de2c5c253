"""Models in their published form draw what diffusers draws from the same folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from locara_sidecar.ipc.errors import EngineError
from support import published

pytest.importorskip("torch")
pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")
load_file, save_file = safetensors.load_file, safetensors.save_file

# diffusers 0.42 converts its levels in a way that NumPy 2 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LEAST = {"torch": 1, "mlx": 2}
"""The largest difference allowed, in levels of 255."""
VARIANTS = {
    "sd3.5": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "sdxl": ("text_encoder", "text_encoder_2", "unet", "vae"),
}
"""The components that are also published as the variant fp16."""
PYTORCH = {"format": "pt"}


def differ(mine, theirs):
    mine, theirs = (np.asarray(picture).astype(int) for picture in (mine, theirs))
    assert mine.shape == theirs.shape
    assert theirs.std() > 5  # a picture, not a plain colour
    return np.abs(mine - theirs).max()


@pytest.mark.quick_cases("sd3.5", "flux-schnell", "mlx-sdxl")
@pytest.mark.parametrize("model", published.FAMILIES)
def test_a_published_folder_draws_what_diffusers_draws_from_it(engine, cold, run, spec, model):
    job = published.job(spec, model)
    result = run(cold, job)
    assert differ(result.images[0], published.picture(model, job)) <= LEAST[engine]
    changed = published.edits(spec, model)
    assert differ(run(cold, changed).images[0], published.picture(model, changed)) <= LEAST[engine]


# --- variants, and more than one set of weights -----------------------------------------------


def copied(tmp_path, model):
    return Path(shutil.copytree(published.FOLDER / model, tmp_path / model))


def only_variants(folder, model):
    """Remove whatever also exists as fp16: what remains is what a download with ``variant="fp16"`` brings."""
    for component in VARIANTS[model]:
        for file in (folder / component).iterdir():
            if "fp16" not in file.name and file.name != "config.json":
                file.unlink()


@pytest.mark.quick_cases("sd3.5")
@pytest.mark.parametrize("model", VARIANTS)
def test_a_folder_with_the_variant_fp16_only_draws_what_diffusers_draws_of_it(engine, cold, run, spec, tmp_path, model):
    folder = copied(tmp_path, model)
    only_variants(folder, model)
    job = published.job(spec, model, path=str(folder))
    theirs = published.picture(model, job, variant="fp16")
    assert differ(run(cold, job).images[0], theirs) <= LEAST[engine]


@pytest.mark.slow
def test_a_variant_is_passed_over_where_the_whole_weights_are(cold, runtimes, run, spec, tmp_path):
    folder = copied(tmp_path, "sdxl")
    for file in folder.glob("*/*.fp16.safetensors"):
        file.write_bytes(b"nothing that could be read")
    result = run(cold, published.job(spec, "sdxl", path=str(folder)))
    expected = run(runtimes("published"), published.job(spec, "sdxl"))
    assert result.images[0].tobytes() == expected.images[0].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("component", "stem"), [("transformer", "diffusion_pytorch_model"), ("text_encoder_3", "model")]
)
def test_of_one_file_and_shards_with_other_weights_each_library_takes_its_own(
    engine, cold, run, spec, tmp_path, component, stem
):
    """diffusers takes the shards, transformers the single file."""
    folder = copied(tmp_path, "sd3.5")
    tensors = {}
    for shard in sorted((folder / component).glob(f"{stem}-*.safetensors")):
        tensors |= load_file(shard)
    save_file({name: value / 2 for name, value in tensors.items()}, folder / component / f"{stem}.safetensors", PYTORCH)
    job = published.job(spec, "sd3.5", path=str(folder))
    mine, theirs = run(cold, job).images[0], published.picture("sd3.5", job)
    assert differ(mine, theirs) <= LEAST[engine]
    as_published = published.picture("sd3.5", published.job(spec, "sd3.5"))
    assert (differ(as_published, theirs) > 5) == (stem == "model")


def test_shards_that_are_not_all_there_are_named_though_one_file_would_do(cold, run, spec, tmp_path):
    """Nobody can tell which of the two is the model; diffusers refuses it, too."""
    folder = copied(tmp_path, "sd3.5") / "transformer"
    shards = sorted(folder.glob("*.safetensors"))
    shutil.copyfile(shards[0], folder / "diffusion_pytorch_model.safetensors")
    shards[1].unlink()
    with pytest.raises(EngineError) as caught:
        run(cold, published.job(spec, "sd3.5", path=str(folder.parent)))
    assert caught.value.kind == "ModelIncomplete"
    assert shards[1].name in caught.value.message


@pytest.mark.parametrize("damage", ["a shard is gone", "it names a file elsewhere"])
def test_the_index_of_a_variant_is_checked_as_any_other(cold, run, spec, tmp_path, damage):
    folder = copied(tmp_path, "sd3.5")
    only_variants(folder, "sd3.5")
    shard = folder / "text_encoder_3" / "model.fp16-00002-of-00002.safetensors"
    index = folder / "text_encoder_3" / "model.safetensors.index.fp16.json"
    if damage == "a shard is gone":
        shard.unlink()
    else:
        index.write_text(json.dumps({"weight_map": {"a": "../text_encoder/model.fp16.safetensors"}}))
    with pytest.raises(EngineError) as caught:
        run(cold, published.job(spec, "sd3.5", path=str(folder)))
    gone = damage == "a shard is gone"
    assert caught.value.kind == ("ModelIncomplete" if gone else "IntegrityError")
    assert (shard if gone else index).name in caught.value.message


# --- FLUX.2 [klein] ----------------------------------------------------------------------------


def test_a_model_that_was_not_distilled_is_refused(cold, run, spec, tmp_path):
    """It needs guidance, without which it would draw badly."""
    folder = copied(tmp_path, "flux2-klein")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"is_distilled": False}))
    with pytest.raises(EngineError, match="is_distilled is false") as caught:
        run(cold, published.job(spec, "flux2-klein", path=str(folder)))
    assert caught.value.kind == "IntegrityError"


def test_statistics_may_lack_the_number_of_their_updates_and_nothing_else(engine, cold, run, spec, tmp_path):
    folder = copied(tmp_path, "flux2-klein")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["bn.num_batches_tracked"]
    save_file(tensors, path, PYTORCH)
    job = published.job(spec, "flux2-klein", path=str(folder))
    assert differ(run(cold, job).images[0], published.picture("flux2-klein", job)) <= LEAST[engine]
    del tensors["bn.running_var"]
    save_file(tensors, path, PYTORCH)
    with pytest.raises(EngineError, match=r"the tensor bn.running_var is missing"):
        run(cold, published.job(spec, "flux2-klein", path=str(folder), digest="sha256:other"))
