"""The catalogue: what ships is sound, what a host adds is checked, and a digest identifies the bytes."""

import json
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from locara_sidecar.machine import supported
from locara_sidecar.machine.machine import GIB, Machine
from locara_sidecar.models import catalogue, fit
from locara_sidecar.models.cache.digest import model_digest
from support.model_store import error_of


def test_sd35_medium_is_first_and_pocket_last_and_installed():
    known = catalogue.load()
    ids = [entry.id for entry in known]
    assert ids[0] == "sd3.5-medium"
    assert ids[-1] == "pocket"
    assert known.folder("pocket") is not None
    assert known.folder("sd3.5-medium") is None


HUB = {
    "sd3.5-medium": ["stabilityai/stable-diffusion-3.5-medium"],
    "sd3.5-large": ["stabilityai/stable-diffusion-3.5-large"],
    "flux.1-schnell": ["black-forest-labs/FLUX.1-schnell"],
    "flux.1-dev": ["black-forest-labs/FLUX.1-dev"],
    "flux.1-kontext-dev": ["black-forest-labs/FLUX.1-Kontext-dev"],
    "sdxl-lightning": ["stabilityai/stable-diffusion-xl-base-1.0", "ByteDance/SDXL-Lightning"],
    "z-image-turbo": ["Tongyi-MAI/Z-Image-Turbo"],
    "flux.2-klein-4b": ["black-forest-labs/FLUX.2-klein-4B"],
}
UNGATED = {"sdxl-lightning", "z-image-turbo", "flux.2-klein-4b"}
LAYER = 100_930_816
"""Numbers in a layer of Qwen3-4B."""
UNREAD = {"z-image-turbo": LAYER, "flux.2-klein-4b": 9 * LAYER}
"""Numbers that are downloaded and not loaded."""
WIDE = {"z-image-turbo": 4}
"""The bytes per number of the denoiser, where it is not two."""
MEMBERS = (
    *("id", "version", "displayName", "description", "tags", "license", "licenseUrl", "modalities", "family"),
    *("parameters", "components", "schedulers", "defaults", "sides", "source"),
)


def test_every_file_of_the_catalogue_says_all_that_there_is_to_say_about_its_model():
    files = {file.stem: json.loads(file.read_text()) for file in catalogue.SHIPPED.glob("*.json")}
    assert files.keys() == {*HUB, "pocket"}
    for name, data in files.items():
        assert [member for member in MEMBERS if not data.get(member)] == [], name
        assert data["id"] == name
        assert {type(data[member]) for member in ("commercialUse", "gated")} == {bool}
        assert data["licenseUrl"].startswith("https://")
        assert (data.get("downloadBytes", 0) > 0) == (name in HUB)


def test_those_of_the_hub_name_their_repositories_and_files_and_no_commit_that_nobody_has_seen():
    for model, repositories in HUB.items():
        entry = catalogue.load().get(model)
        assert [source.repository for source in entry.sources] == repositories
        assert all(source.files for source in entry.sources)
        assert {source.revision for source in entry.sources} == {None}
        assert entry.downloadable
        assert entry.gated == (model not in UNGATED)


def test_the_memory_of_every_model_is_known_for_each_number_of_bits():
    for entry in catalogue.load():
        rows = fit.table(entry, Machine(kind="ram", total=256 * GIB, available=256 * GIB), ["torch"])
        weights = {row.quantization: row.weights for row in rows}
        assert weights["none"] > weights["8bit"] > weights["4bit"] > 0, entry.id
        (denoiser,) = [part.parameters for part in entry.components if part.role == "denoiser"]
        size = sum(part.parameters for part in entry.components)
        published = denoiser if entry.id in HUB else size  # the usual names of model sizes
        assert entry.parameters == pytest.approx(published, rel=0.03), entry.id
        weights = 2 * (size + UNREAD.get(entry.id, 0)) + (WIDE.get(entry.id, 2) - 2) * denoiser
        assert not entry.download_bytes or entry.download_bytes == pytest.approx(weights, rel=0.03), entry.id


def test_each_models_defaults_lie_within_its_own_limits():
    for entry in catalogue.load():
        sides = entry.sides
        for side in (entry.defaults.width, entry.defaults.height):
            assert sides.minimum <= side <= sides.maximum
            assert side % sides.multiple_of == 0
        assert entry.defaults.width * entry.defaults.height <= sides.max_pixels
        assert entry.defaults.scheduler in entry.schedulers


def test_models_of_four_steps_run_at_one_speed_and_those_of_many_at_three():
    speeds = {entry.id: (entry.defaults.steps > 8, entry.speeds) for entry in catalogue.load()}
    assert {names for many, names in speeds.values() if many} == {("exact", "balanced", "fast")}
    assert {names for many, names in speeds.values() if not many} == {("exact",)}


def test_models_that_were_distilled_to_run_without_guidance_are_not_guided():
    assert {entry.id for entry in catalogue.load() if not entry.guidable} == {
        *("flux.1-schnell", "sdxl-lightning", "z-image-turbo", "flux.2-klein-4b")
    }


def test_every_shipped_model_can_edit_and_two_by_instruction():
    found = {entry.id: entry.edit_modality for entry in catalogue.load()}
    assert {found.pop(model) for model in ("flux.1-kontext-dev", "flux.2-klein-4b")} == {"image-text-to-image"}
    assert set(found.values()) == {"image-to-image"}
    assert all("text-to-image" in entry.modalities for entry in catalogue.load())


def test_klein_looks_at_ten_pictures_and_all_others_at_one():
    found = {entry.id: entry.references for entry in catalogue.load()}
    assert found.pop("flux.2-klein-4b") == 10
    assert set(found.values()) == {1}


def test_a_model_whose_modalities_name_no_edit_cannot_edit(tmp_path):
    write(tmp_path, id="mine", modalities=["text-to-image"])
    assert catalogue.load(tmp_path).get("mine").edit_modality is None


def test_a_host_adds_a_model_with_a_folder_of_its_own(tmp_path):
    write(tmp_path, id="mine", order=5, source={"path": "files"})
    known = catalogue.load(tmp_path)
    assert next(entry.id for entry in known) == "mine"
    assert known.folder("mine") is None
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model_index.json").write_text("{}")
    assert known.folder("mine") == tmp_path / "files"


def test_the_entry_that_the_page_shows_is_taken_and_needs_all_its_members_but_one(tmp_path):
    page = (Path(__file__).parents[2] / "protocol" / "README.md").read_text("utf-8")
    entry = json.loads(page.split("### Models of your own")[1].split("```json")[1].split("```")[0])
    needed = []
    for left_out in [None, *entry]:
        (tmp_path / "mine.json").write_text(json.dumps({name: entry[name] for name in entry if name != left_out}))
        if catalogue.load(tmp_path).get(entry["id"]) is None:
            needed.append(left_out)
    assert needed == [name for name in entry if name != "speeds"]


@pytest.mark.parametrize("change", [{"id": "Bad Id"}, {"stepz": 4}, {"id": "pocket"}, {"sides": {}}, "{", "\xff", "[]"])
def test_a_wrong_entry_is_left_out_by_the_name_of_its_file_and_takes_no_other_with_it(change, tmp_path):
    write(tmp_path, id="good", order=5)
    (tmp_path / "mine.json").rename(tmp_path / "z.json")
    if isinstance(change, str):
        (tmp_path / "mine.json").write_bytes(change.encode("latin-1"))
    else:
        write(tmp_path, **{"id": "mine", **change})
    known = catalogue.load(tmp_path).with_cache(tmp_path)
    (words,) = known.skipped
    assert words.startswith(f"{tmp_path / 'mine.json'}: ")
    assert known.note.endswith(": mine.json.")
    assert known.get("mine") is None
    assert known.get("good") is not None
    assert known.get("pocket").display_name == catalogue.load().get("pocket").display_name


def test_a_folder_of_entries_that_is_none_is_refused(tmp_path):
    with pytest.raises(catalogue.CatalogueError, match="nowhere"):
        catalogue.load(tmp_path / "nowhere")


def test_a_digest_depends_on_names_and_bytes_and_nothing_else(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "sub").mkdir(parents=True)
    (one / "sub" / "a").write_bytes(b"1")
    (one / "b").write_bytes(b"2")
    shutil.copytree(one, two)
    (two / ".cache").write_bytes(b"not part of the model")
    (two / "meta.json").write_text('{"digest": "sha256:what anybody may write"}')
    assert model_digest(one) == model_digest(two)
    (two / "b").write_bytes(b"3!")
    assert model_digest(one) != model_digest(two)


@pytest.mark.timeout(20)
@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and names that are no UTF-8")
@pytest.mark.parametrize("name", [b"tokenizer.json", b"notes.txt", b"\xff.safetensors"])
def test_a_file_that_is_no_models_is_refused_before_a_folder_is_hashed(tmp_path, name):
    """Hashing a hundred gigabytes takes minutes, after which a name that is not UTF-8 used to be an InternalError."""
    (tmp_path / "large.safetensors").touch()
    os.truncate(tmp_path / "large.safetensors", 100 << 30)
    file = os.path.join(os.fsencode(tmp_path), name)
    open(file, "wb").close()
    os.truncate(file, 20 << 20)
    error = error_of(model_digest, tmp_path)
    assert (error.kind, error.data["file"]) == (
        "IntegrityError",
        name.decode("ascii", "replace").replace("\ufffd", "?"),
    )
    assert error.message.startswith(f"{error.data['file']} is refused: ")


def write(folder, **changes):
    package = json.loads((catalogue.Path(catalogue.__file__).parent / "catalogue" / "pocket.json").read_text())
    (folder / "mine.json").write_text(json.dumps({**package, **changes}))


@pytest.mark.timeout(30)  # opening it would block forever
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_no_entry(tmp_path):
    os.mkfifo(tmp_path / "mine.json")
    known = catalogue.load(tmp_path)
    assert len(list(known)) == len(list(catalogue.load()))
    assert "mine.json: it is not a regular file" in known.skipped[0]


@pytest.mark.parametrize(
    ("family", "modalities", "said", "most"),
    [
        ("flux-kontext", ["image-text-to-image"], None, 1),
        ("flux-kontext", ["image-text-to-image"], 4, 1),
        ("sd3", ["text-to-image"], 3, 0),
        ("unheard-of", ["image-text-to-image"], None, 1),
        ("unheard-of", ["image-text-to-image"], 10, 10),
        ("several", ["image-text-to-image"], None, 6),
        ("several", ["image-text-to-image"], 2, 2),
        ("several", ["image-text-to-image"], 7, 6),
    ],
)
def test_a_model_takes_as_many_pictures_as_its_family_can_use_and_its_entry_allows(
    monkeypatch, family, modalities, said, most
):
    row = msgspec.structs.replace(supported.FAMILIES["flux-kontext"], name="several", references=6)
    monkeypatch.setattr(supported, "FAMILIES", {**supported.FAMILIES, "several": row})
    entry = msgspec.structs.replace(
        catalogue.load().get("pocket"), family=family, modalities=modalities, max_references=said
    )
    assert entry.references == most


@pytest.mark.parametrize("said", [0, 11, -1, "4"])
def test_an_entry_that_allows_no_picture_or_too_many_is_left_out(tmp_path, said):
    entry = json.loads((catalogue.SHIPPED / "sd3.5-medium.json").read_text()) | {"id": "mine", "maxReferences": said}
    (tmp_path / "mine.json").write_text(json.dumps(entry))
    (told,) = catalogue.load(tmp_path).skipped
    assert "maxReferences" in told


@pytest.mark.parametrize(
    ("model", "change", "fault"),
    [
        ("flux.2-klein-4b", {"classifierFreeGuidance": True}, "classifierFreeGuidance is true"),
        ("flux.1-dev", {"classifierFreeGuidance": True}, "classifierFreeGuidance is true"),
        ("flux.2-klein-4b", {"modalities": ["text-to-image", "image-to-image"]}, "modalities has 'image-to-image'"),
        ("z-image-turbo", {"modalities": ["image-text-to-image"]}, "modalities has 'image-text-to-image'"),
        ("z-image-turbo", {"guidance": 5.0}, "defaults.guidance is 5"),
        ("flux.2-klein-4b", {"guidance": 4.0}, "defaults.guidance is 4"),
        ("z-image-turbo", {"guidance": 1.0}, None),
        ("flux.1-dev", {"guidance": 7.0}, None),
        ("sd3.5-medium", {"classifierFreeGuidance": False}, None),
        ("z-image-turbo", {"family": "unheard-of", "guidance": 5.0, "classifierFreeGuidance": True}, None),
    ],
)
def test_an_entry_promises_nothing_that_its_family_is_not_run_with(tmp_path, model, change, fault):
    """Otherwise guidance, a negative prompt or a strength would be accepted without effect."""
    entry = json.loads((catalogue.SHIPPED / f"{model}.json").read_text()) | {"id": "mine"}
    entry["defaults"] |= {"guidance": change.get("guidance", entry["defaults"]["guidance"])}
    change = {name: value for name, value in change.items() if name != "guidance"}
    (tmp_path / "mine.json").write_text(json.dumps(entry | change))
    known = catalogue.load(tmp_path)
    told = [words.partition("mine.json: ")[2] for words in known.skipped]
    assert len(told) == bool(fault)
    assert all(words.startswith(fault) for words in told)
    assert (known.get("mine") is None) == bool(fault)


def test_z_image_reports_no_guidance_whatever_its_entry_has(tmp_path):
    entry = json.loads((catalogue.SHIPPED / "z-image-turbo.json").read_text()) | {"id": "mine"}
    entry["defaults"] |= {"guidance": 1.0}
    (tmp_path / "mine.json").write_text(json.dumps(entry))
    assert not catalogue.load(tmp_path).get("mine").guidable


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_a_folder_whose_name_no_line_can_hold_is_refused(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    with pytest.raises(catalogue.CatalogueError, match=r"caf\? is not valid UTF-8"):
        catalogue.load(folder)
