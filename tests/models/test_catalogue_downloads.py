"""The catalogue's own entries against repositories with the published layout: what is fetched, and what is not.

The names in them are the published ones as far as we know; nobody has checked them on the hub. The bytes are those of
the fixtures.
"""

import shutil
from pathlib import Path

import pytest

from locara_sidecar.models import catalogue
from locara_sidecar.models.cache import survey
from locara_sidecar.models.checks.verify import verify
from support.model_store import download, entry_for, error_of, safetensors, whole

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
KNOWN = {entry.id: entry for entry in catalogue.load()}
FLUX = {
    "flux.1-schnell": ("tiny-flux", "black-forest-labs/FLUX.1-schnell"),
    "flux.1-dev": ("tiny-flux-dev", "black-forest-labs/FLUX.1-dev"),
    "flux.1-kontext-dev": ("tiny-flux-kontext", "black-forest-labs/FLUX.1-Kontext-dev"),
}
T5 = [
    "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors",
    "text_encoder_2/model.safetensors.index.json",
]


def tree(folder):
    """Return contents by path, without files that are not in the published repositories or that the store adds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "meta.json" and path.parent.name != "tiny_vae"
    }


def serve(hub, tmp_path, repository, files, decoys, *, gated=True):
    folder = tmp_path / repository
    for name, data in {**dict.fromkeys(decoys, b"not wanted"), **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    hub.add(repository, folder, gated=gated)
    return folder


def fetched(store, hub, model):
    entry = download(store, hub, KNOWN[model], token=hub.token)
    return tree(entry.folder), entry


def flux(hub, tmp_path, model):
    fixture, repository = FLUX[model]
    files = tree(FIXTURES / fixture) | {name: (FIXTURES / "tiny-flux" / name).read_bytes() for name in T5}
    decoys = ["flux1-whole.safetensors", "ae.safetensors", "README.md", "LICENSE.md", ".gitattributes", "grid.jpg"]
    serve(hub, tmp_path, repository, files, decoys)
    return files


def test_each_flux_model_is_what_diffusers_would_open_and_the_t5_of_all_three_is_stored_once(store, hub, tmp_path):
    entries = []
    for model in FLUX:
        files = flux(hub, tmp_path, model)
        found, entry = fetched(store, hub, model)
        assert found == files
        entries.append(entry)
    for name in T5[:2]:
        assert len({(entry.folder / name).stat().st_ino for entry in entries}) == 1
        sha256 = hub.repositories[FLUX["flux.1-dev"][1]].files[name][1]
        assert len(hub.requests(f"/cdn/{sha256}")) == 1, "and fetched once"
    assert survey.usage(store).bytes < sum(entry.meta.bytes for entry in entries)
    assert whole(store) == sorted(FLUX)


@pytest.mark.parametrize("model", ["sd3.5-medium", "sd3.5-large"])
def test_stable_diffusion_35_comes_without_its_copies_in_other_forms(store, hub, tmp_path, model):
    files = tree(FIXTURES / "tiny-sd3")
    del files["text_encoder_3/model.safetensors"]
    files |= {
        name.replace("text_encoder_2", "text_encoder_3"): (FIXTURES / "tiny-flux" / name).read_bytes() for name in T5
    }
    if model == "sd3.5-medium":  # its transformer is one file
        files = {name: data for name, data in files.items() if not name.startswith("transformer/diffusion")}
        files["transformer/diffusion_pytorch_model.safetensors"] = safetensors(3000)
    decoys = [
        *("text_encoder/model.fp16.safetensors", "text_encoder_2/model.fp16.safetensors"),
        *(
            "text_encoder_3/model.fp16-00001-of-00002.safetensors",
            "text_encoder_3/model.fp16-00002-of-00002.safetensors",
        ),
        *("text_encoder_3/model.safetensors.index.fp16.json", "text_encoders/t5xxl_fp16.safetensors"),
        *("sd3.5_whole.safetensors", "text_encoders/clip_g.safetensors", "README.md", "workflow.json", "demo.jpg"),
    ]
    serve(hub, tmp_path, f"stabilityai/{KNOWN[model].sources[0].repository.partition('/')[2]}", files, decoys)
    assert fetched(store, hub, model)[0] == files


def test_sdxl_lightning_is_put_together_from_two_repositories(store, hub, tmp_path):
    files = tree(FIXTURES / "tiny-sdxl")
    base, unet = dict(files), "unet/diffusion_pytorch_model.safetensors"
    for encoder in ("text_encoder", "text_encoder_2"):
        base[f"{encoder}/model.fp16.safetensors"] = base.pop(f"{encoder}/model.safetensors")
    del base[unet]
    decoys = [
        *("sd_xl_base_1.0.safetensors", unet, "unet/diffusion_pytorch_model.fp16.safetensors", "unet/model.onnx"),
        *("text_encoder/model.safetensors", "text_encoder_2/model.safetensors", "text_encoder/flax_model.msgpack"),
        *("vae/diffusion_pytorch_model.fp16.safetensors", "vae_decoder/config.json", "vae_1_0/config.json"),
    ]
    serve(hub, tmp_path, "stabilityai/stable-diffusion-xl-base-1.0", base, decoys, gated=False)
    lightning = {"sdxl_lightning_4step_unet.safetensors": files[unet]}
    others = ["sdxl_lightning_2step_unet.safetensors", "sdxl_lightning_4step_lora.safetensors", "README.md"]
    serve(hub, tmp_path, "ByteDance/SDXL-Lightning", lightning, others, gated=False)
    found, entry = fetched(store, hub, "sdxl-lightning")
    assert found == files
    assert [origin.repository for origin in entry.meta.source] == [
        "stabilityai/stable-diffusion-xl-base-1.0",
        "ByteDance/SDXL-Lightning",
    ]


def test_z_image_comes_with_its_chat_template_and_the_autoencoder_that_flux_has_too_is_stored_once(
    store, hub, tmp_path
):
    flux(hub, tmp_path, "flux.1-dev")
    files = tree(FIXTURES / "tiny-z-image")
    assert "tokenizer/chat_template.jinja" in files
    decoys = [
        "README.md",
        "assets/showcase.jpg",
        "assets/DMDR.webp",
        "text_encoder/model.safetensors",
        ".gitattributes",
    ]
    serve(hub, tmp_path, "Tongyi-MAI/Z-Image-Turbo", files, decoys, gated=False)
    _, first = fetched(store, hub, "flux.1-dev")
    found, entry = fetched(store, hub, "z-image-turbo")
    assert found == files
    name = "vae/diffusion_pytorch_model.safetensors"
    assert (first.folder / name).stat().st_ino == (entry.folder / name).stat().st_ino
    sha256 = hub.repositories["Tongyi-MAI/Z-Image-Turbo"].files[name][1]
    assert len(hub.requests(f"/cdn/{sha256}")) == 1, "and fetched once"


def test_klein_is_taken_in_parts_and_not_a_second_time_as_one_file(store, hub, tmp_path):
    files = tree(FIXTURES / "tiny-flux2")
    decoys = ["README.md", "LICENSE.md", "flux-2-klein-4b.safetensors", "text_encoder/model.safetensors", "teaser.png"]
    serve(hub, tmp_path, "black-forest-labs/FLUX.2-klein-4B", files, decoys, gated=False)
    found, _ = fetched(store, hub, "flux.2-klein-4b")
    assert found == files


def test_an_encoder_that_z_image_and_klein_have_alike_is_stored_and_counted_once(store, hub, tmp_path):
    """The digest decides, whatever the file is called there."""
    shard = "text_encoder/model-00001-of-00002.safetensors"
    z_image, klein = tree(FIXTURES / "tiny-z-image"), tree(FIXTURES / "tiny-flux2")
    assert z_image[shard] != klein[shard]
    klein["text_encoder/model-00003-of-00003.safetensors"] = z_image[shard]
    serve(hub, tmp_path, "Tongyi-MAI/Z-Image-Turbo", z_image, [], gated=False)
    serve(hub, tmp_path, "black-forest-labs/FLUX.2-klein-4B", klein, [], gated=False)
    _, first = fetched(store, hub, "z-image-turbo")
    before = survey.usage(store).bytes
    _, second = fetched(store, hub, "flux.2-klein-4b")
    other = second.folder / "text_encoder/model-00003-of-00003.safetensors"
    assert (first.folder / shard).stat().st_ino == other.stat().st_ino
    found = survey.usage(store)
    assert len(found.models) == 2
    (shared,) = {model.shared for model in found.models}
    assert shared >= len(z_image[shard])
    (klein_alone,) = [model.bytes - model.shared for model in found.models if model.entry.key == second.key]
    assert found.bytes == before + klein_alone


def test_a_repository_that_has_moved_the_weights_elsewhere_gives_no_model(store, hub, tmp_path):
    files = flux(hub, tmp_path, "flux.1-dev")
    moved = {name.replace("transformer/diff", "elsewhere/diff"): data for name, data in files.items()}
    shutil.rmtree(tmp_path / FLUX["flux.1-dev"][1])
    serve(hub, tmp_path, FLUX["flux.1-dev"][1], moved, [])
    error = error_of(download, store, hub, KNOWN["flux.1-dev"], token=hub.token)
    assert (error.kind, error.data["file"]) == ("ModelIncomplete", "transformer/*.safetensors")
    assert whole(store) == []


def test_a_model_that_was_found_damaged_is_mended_from_the_commit_that_it_came_from(store, hub):
    """The first download pins the revision: the hub's main branch may have changed since."""
    entry = download(store, hub)
    commit = entry.meta.source[0].revision
    victim = entry.folder / "transformer/config.json"
    victim.chmod(0o644)
    victim.write_bytes(b"{}")
    assert error_of(verify, store, entry, "mine", lambda _: None).kind == "IntegrityError"
    hub.log.clear()
    assert download(store, hub, entry_for()).key == entry.key
    (asked,) = hub.requests("/api/models/org/mine/")
    assert asked.path.endswith(f"/revision/{commit}")
