"""The catalogue: what ships is sound, what a host adds is checked, and a digest names the bytes."""

import json
import shutil

import pytest

from locara_sidecar.models import catalogue
from locara_sidecar.models.digest import model_digest


def test_sd35_medium_is_first_and_pocket_last_and_installed():
    known = catalogue.load()
    ids = [entry.id for entry in known]
    assert ids[0] == "sd3.5-medium"
    assert ids[-1] == "pocket"
    assert known.folder("pocket") is not None
    assert known.folder("sd3.5-medium") is None


def test_each_models_defaults_lie_within_its_own_limits():
    for entry in catalogue.load():
        sides = entry.sides
        for side in (entry.defaults.width, entry.defaults.height):
            assert sides.minimum <= side <= sides.maximum
            assert side % sides.multiple_of == 0
        assert entry.defaults.width * entry.defaults.height <= sides.max_pixels
        assert entry.defaults.scheduler in entry.schedulers


def test_every_shipped_model_can_edit_and_kontext_alone_by_instruction():
    found = {entry.id: entry.edit_modality for entry in catalogue.load()}
    assert found.pop("flux.1-kontext-dev") == "image-text-to-image"
    assert set(found.values()) == {"image-to-image"}
    assert all("text-to-image" in entry.modalities for entry in catalogue.load())


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


@pytest.mark.parametrize("change", [{"id": "Bad Id"}, {"stepz": 4}, {"id": "pocket"}, {"sides": {}}])
def test_a_wrong_entry_is_refused_by_the_name_of_its_file(change, tmp_path):
    write(tmp_path, **{"id": "mine", **change})
    with pytest.raises(catalogue.CatalogueError, match=r"mine\.json|pocket"):
        catalogue.load(tmp_path)


def test_a_digest_depends_on_names_and_bytes_and_nothing_else(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "sub").mkdir(parents=True)
    (one / "sub" / "a").write_bytes(b"1")
    (one / "b").write_bytes(b"2")
    shutil.copytree(one, two)
    (two / ".cache").write_bytes(b"not part of the model")
    assert model_digest(one) == model_digest(two)
    (two / "b").write_bytes(b"3!")
    assert model_digest(one) != model_digest(two)


def write(folder, **changes):
    package = json.loads((catalogue.Path(catalogue.__file__).parent / "catalogue" / "pocket.json").read_text())
    (folder / "mine.json").write_text(json.dumps({**package, **changes}))
