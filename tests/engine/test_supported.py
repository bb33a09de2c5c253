"""The rows of ``machine/supported.py`` agree with what they describe: contract, catalogue, package and adapters."""

import importlib.util
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from locara_protocol.messages import EngineName
from locara_sidecar.engine.folder import schedulers
from locara_sidecar.engine.folder.config_members import CLASSES
from locara_sidecar.engine.runtime import named
from locara_sidecar.machine.supported import ENGINES, FAMILIES, least_steps, steps_at
from locara_sidecar.models import catalogue

DRAWING = [row for row in ENGINES.values() if row.draws_models]


def test_a_host_may_name_every_engine_that_draws_with_models():
    assert {*get_args(EngineName)} == {"auto", *(row.name for row in DRAWING)}


def test_every_engine_that_draws_with_models_is_an_extra_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {row.name for row in DRAWING} <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_class_of_a_family_has_rules_for_its_configuration(name):
    assert {*FAMILIES[name].components.values()} <= CLASSES.keys()


@pytest.mark.parametrize("engine", [row.name for row in DRAWING])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_adapter_can_be_imported(name, engine):
    for package in ENGINES[engine].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if engine in FAMILIES[name].adapters:
        assert isinstance(named(FAMILIES[name].adapters[engine]), type)


@pytest.mark.parametrize("entry", [*catalogue.load()], ids=lambda entry: entry.id)
def test_a_shipped_model_promises_what_its_family_can(entry):
    row = FAMILIES[entry.family]
    assert set(entry.modalities) == row.modalities
    assert {*entry.schedulers} <= schedulers.names(row.noise)
    found = [part.name for part in entry.components]
    assert found == [name for name in row.components if name in found or name not in row.optional]
    for engine in (row.name for row in DRAWING):
        assert least_steps(engine, entry.family, "exact") == 1


def test_only_a_model_that_follows_an_instruction_takes_no_mask():
    for row in FAMILIES.values():
        assert bool(row.no_mask) == ("image-text-to-image" in row.modalities)


@pytest.mark.parametrize(("family", "steps"), [("sd3", 9), ("flux", 9), ("sdxl", 8), ("one that nobody knows", 9)])
def test_an_edit_runs_as_many_steps_as_diffusers_pipelines_count(family, steps):
    assert steps_at(family, 0.3, 28) == steps  # 8.4
    assert steps_at(family, 0.001, 28) == 1
    assert steps_at(family, 1.0, 28) == 28
