"""Published folders imported by the shipped entries: everything that an engine needs, and no variant that is never
read.
"""

import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import pytest

from locara_sidecar.models import catalogue, worker
from locara_sidecar.models.checks import check
from locara_sidecar.models.imports.importing import import_model
from support.model_store import entry_for, error_of, hf_cache, whole

PUBLISHED = Path(__file__).parents[2] / "fixtures" / "published"
FOLDERS = {
    "sd3.5-medium": "sd3.5",
    "sd3.5-large": "sd3.5",
    "flux.1-schnell": "flux-schnell",
    "flux.1-dev": "flux-dev",
    "flux.1-kontext-dev": "flux-kontext",
    "z-image-turbo": "z-image",
    "flux.2-klein-4b": "flux2-klein",
}
ENTRIES = catalogue.load()
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def take(store, entry, folder):
    return import_model(store, entry, folder, lambda _: None)


def files_of(installed):
    return {file.path for file in installed.meta.files}


@pytest.fixture
def variants_only(tmp_path):
    """SD3.5 as a download with ``variant="fp16"``: components in that form have no other."""
    folder = Path(shutil.copytree(PUBLISHED / "sd3.5", tmp_path / "sd3.5"))
    for component in ENCODERS:
        for file in (folder / component).iterdir():
            if "fp16" not in file.name and file.name != "config.json":
                file.unlink()
    return folder


@pytest.mark.parametrize("model", FOLDERS)
def test_a_published_folder_is_imported_without_its_variants(store, model):
    folder = PUBLISHED / FOLDERS[model]
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    installed = take(store, ENTRIES.get(model), folder)
    assert files_of(installed) == {name for name in there if "fp16" not in name and not name.endswith(".model")}
    assert whole(store) == [model]


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_folder_with_the_variant_only_is_imported_with_it(store, tmp_path, variants_only, where):
    entry = ENTRIES.get("sd3.5-medium")
    if where == "cache":
        repository = hf_cache(tmp_path / "hub", variants_only)
        variants_only = repository.rename(repository.with_name("models--stabilityai--stable-diffusion-3.5-medium"))
    installed = take(store, entry, variants_only)
    assert whole(store) == [entry.id]
    expected = {f"{component}/model.fp16.safetensors" for component in ENCODERS[:2]}
    expected |= {f"text_encoder_3/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)}
    expected.add("text_encoder_3/model.safetensors.index.fp16.json")
    assert {name for name in files_of(installed) if "fp16" in name} == expected


def test_a_shard_that_the_variants_index_names_must_be_there(store, variants_only):
    (variants_only / "text_encoder_3" / "model.fp16-00002-of-00002.safetensors").unlink()
    error = error_of(take, store, ENTRIES.get("sd3.5-medium"), variants_only)
    assert (error.kind, error.data["file"]) == (
        "ModelIncomplete",
        "text_encoder_3/model.fp16-00002-of-00002.safetensors",
    )
    assert whole(store) == []


def test_a_variants_index_that_leads_elsewhere_is_refused(store, variants_only):
    index = variants_only / "text_encoder_3" / "model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"shared.weight": "../vae/diffusion_pytorch_model.safetensors"}}))
    error = error_of(take, store, ENTRIES.get("sd3.5-medium"), variants_only)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "text_encoder_3/model.safetensors.index.fp16.json")


def test_the_index_of_a_variant_that_nobody_reads_may_be_without_its_shards(store, tmp_path):
    folder = Path(shutil.copytree(PUBLISHED / "sd3.5", tmp_path / "sd3.5"))
    for shard in (folder / "text_encoder_3").glob("*.fp16-*"):
        shard.unlink()
    installed = take(store, entry_for(), folder)  # its patterns take every file
    assert "text_encoder_3/model.safetensors.index.fp16.json" in files_of(installed)
    check.check_complete(installed.folder, files_of(installed))


def test_lightnings_unet_is_not_joined_by_the_bases(store, tmp_path):
    """They come from two repositories, and the base's has an fp16 UNet, too."""
    base = hf_cache(tmp_path / "base", PUBLISHED / "sdxl")
    base = base.rename(tmp_path / "models--stabilityai--stable-diffusion-xl-base-1.0")
    unet = tmp_path / "lightning"
    unet.mkdir()
    shutil.copyfile(
        PUBLISHED / "sdxl/unet/diffusion_pytorch_model.safetensors", unet / "sdxl_lightning_4step_unet.safetensors"
    )
    lightning = hf_cache(tmp_path / "other", unet)
    lightning.rename(tmp_path / "models--ByteDance--SDXL-Lightning")
    installed = take(store, ENTRIES.get("sdxl-lightning"), tmp_path)
    assert {name for name in files_of(installed) if name.endswith(".safetensors")} == {
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_a_repository_that_the_cache_lacks_is_named(store, tmp_path):
    base = hf_cache(tmp_path / "base", PUBLISHED / "sdxl")
    base.rename(tmp_path / "models--stabilityai--stable-diffusion-xl-base-1.0")
    error = error_of(take, store, ENTRIES.get("sdxl-lightning"), tmp_path)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.from")
    assert "ByteDance/SDXL-Lightning" in error.message


@pytest.mark.parametrize("cached", [False, True])
def test_a_snapshot_of_the_base_is_taken_with_the_unet_from_the_same_cache_or_told_what_lacks(store, tmp_path, cached):
    base = hf_cache(tmp_path / "base", PUBLISHED / "sdxl")
    base = base.rename(tmp_path / "models--stabilityai--stable-diffusion-xl-base-1.0")
    (snapshot,) = (base / "snapshots").iterdir()
    if not cached:
        error = error_of(take, store, ENTRIES.get("sdxl-lightning"), snapshot)
        assert (error.kind, error.data["path"]) == ("InvalidParams", "$.from")
        assert "ByteDance/SDXL-Lightning" in error.message
        return
    unet = tmp_path / "lightning/sdxl_lightning_4step_unet.safetensors"
    unet.parent.mkdir()
    shutil.copyfile(PUBLISHED / "sdxl/vae/diffusion_pytorch_model.safetensors", unet)
    hf_cache(tmp_path / "other", unet.parent).rename(tmp_path / "models--ByteDance--SDXL-Lightning")
    installed = take(store, ENTRIES.get("sdxl-lightning"), snapshot)
    taken = (installed.folder / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert taken == unet.read_bytes()
    assert len(installed.meta.source) == 2


def test_a_file_that_is_known_to_be_another_models_is_refused_and_leaves_nothing(store, tmp_path):
    unet = "unet/diffusion_pytorch_model.safetensors"
    entry, source = ENTRIES.get("sdxl-lightning"), PUBLISHED / "sdxl"
    own = hashlib.sha256((source / unet).read_bytes()).hexdigest()
    error = error_of(take, store, msgspec.structs.replace(entry, lookalikes={own: "the base's"}), source)
    assert (error.kind, error.data["files"]) == ("IntegrityError", [unet])
    assert "it is the base's" in error.message
    assert entry.id in error.message
    assert whole(store) == []
    assert take(store, entry, source)


def test_lightning_knows_the_bases_published_unets():
    """In full and as fp16: the digests that the repository of SDXL base 1.0 has had since 2023."""
    found = ENTRIES.get("sdxl-lightning").lookalikes
    assert {digest[:8] for digest in found} == {"83e012a8", "357650fb"}
    assert all("SDXL base 1.0" in whose for whose in found.values())


@pytest.mark.parametrize(
    ("model", "entry", "fits"),
    [
        ("flux-dev", "flux.1-dev", True),
        ("flux-schnell", "flux.1-schnell", True),
        ("flux-kontext", "flux.1-kontext-dev", True),
        ("flux-dev", "flux.1-schnell", False),
        ("flux-schnell", "flux.1-dev", False),
    ],
)
def test_a_flux_with_guidance_is_not_taken_for_one_without(store, model, entry, fits):
    work = worker.WorkerRequest(
        op="import", root=str(store.root), entry=ENTRIES.get(entry), folder=str(PUBLISHED / model)
    )
    if fits:
        assert worker.perform(work, lambda _: None, lambda _: None).files
        return
    error = error_of(worker.perform, work, lambda _: None, lambda _: None)
    assert (error.kind, error.data["files"]) == ("IntegrityError", ["transformer/config.json"])
    assert "guidance" in error.message
    assert whole(store) == []


def test_a_file_that_is_there_under_its_final_name_too_is_taken_once(store):
    """The entry takes the fp16 encoders and renames them to the full ones, which this folder has as well."""
    names = files_of(take(store, ENTRIES.get("sdxl-lightning"), PUBLISHED / "sdxl"))
    assert {name for name in names if name.startswith("text_encoder") and name.endswith(".safetensors")} == {
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
    }
