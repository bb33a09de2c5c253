"""The committed fixture models are what their script writes."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

FIXTURES = Path(__file__).parents[3] / "fixtures"


def module_of(name):
    found = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(FIXTURES), *sys.path])  # as Python does for a script
        found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script(runtime, run, spec):
    run(runtime, spec())  # its settings keep the libraries quiet
    return module_of("make_models")


@pytest.fixture
def published_script():
    return module_of("make_published")


def test_the_script_makes_the_committed_bytes(script, tmp_path):
    script.write_fixtures(tmp_path)
    assert script.same(FIXTURES / "models", tmp_path) == []


def test_the_published_fixtures_are_as_they_were_written(published_script):
    """Files and scripts are compared by digest, because writing them needs the libraries of their time."""
    assert published_script.stale() == []


def test_a_change_of_a_file_or_a_script_is_noticed(published_script, monkeypatch, tmp_path):
    shutil.copytree(published_script.FOLDER, tmp_path / "published")
    monkeypatch.setattr(published_script, "FOLDER", tmp_path / "published")
    (tmp_path / "published" / "sdxl" / "vae" / "config.json").write_text("{}")
    (tmp_path / "published" / "sdxl" / "more.json").write_text("{}")
    assert published_script.stale() == ["sdxl/more.json", "sdxl/vae/config.json"]
    monkeypatch.setitem(published_script.LIBRARIES, "2023", ["transformers==4.30.0"])
    assert published_script.stale()[-1] == "the recipe"


@pytest.mark.parametrize("folder", ["models", "published"])
def test_the_fixtures_are_small(folder):
    assert sum(file.stat().st_size for file in (FIXTURES / folder).rglob("*") if file.is_file()) < 8_000_000


@pytest.mark.parametrize(
    ("model", "family", "order"),
    [
        ("tiny-sd3", "sd3", 900),
        ("tiny-flux", "flux", 901),
        ("tiny-flux-dev", "flux", 902),
        ("tiny-flux-kontext", "flux-kontext", 903),
        ("tiny-sdxl", "sdxl", 904),
        ("tiny-z-image", "z-image", 905),
        ("tiny-flux2", "flux2", 906),
    ],
)
def test_each_catalogue_entry_is_of_the_form(model, family, order):
    from locara_sidecar.models import catalogue

    loaded = catalogue.load(FIXTURES / "models")
    entry = loaded.get(model)
    assert (entry.family, entry.order, entry.sides.maximum) == (family, order, 256)
    assert loaded.folder(model) == (FIXTURES / "models" / model).resolve()


def test_no_library_version_is_in_the_files():
    for file in (FIXTURES / "models").rglob("*.json"):
        keys = json.dumps(json.loads(file.read_text()))
        assert "_version" not in keys.replace("type_version", ""), file
