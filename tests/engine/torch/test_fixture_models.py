"""The committed fixture models are what their script makes."""

import importlib.util
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

FIXTURES = Path(__file__).parents[3] / "fixtures"


@pytest.fixture(scope="module")
def script(runtime, run, spec):
    run(runtime, spec())  # its settings keep the libraries quiet
    found = importlib.util.spec_from_file_location("make_models", FIXTURES / "make_models.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_script_makes_the_committed_bytes(script, tmp_path):
    script.write_fixtures(tmp_path)
    assert script.same(FIXTURES / "models", tmp_path) == []


def test_the_fixtures_are_small():
    assert sum(file.stat().st_size for file in (FIXTURES / "models").rglob("*") if file.is_file()) < 5_000_000


@pytest.mark.parametrize(
    ("model", "family", "order"),
    [
        ("tiny-sd3", "sd3", 900),
        ("tiny-flux", "flux", 901),
        ("tiny-flux-dev", "flux", 902),
        ("tiny-flux-kontext", "flux-kontext", 903),
        ("tiny-sdxl", "sdxl", 904),
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
