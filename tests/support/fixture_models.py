"""Jobs for any of the fixture models, and a warm torch runtime for each; conftest.py files import the fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from locara_sidecar.engine.frames import JobSpec
    from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

MODELS = Path(__file__).parents[2] / "fixtures" / "models"


@pytest.fixture(scope="session")
def job_for(spec: Any) -> Any:
    """Makes a job for a fixture model from its catalogue entry, as the daemon would."""

    def make(model: str, **changes: Any) -> JobSpec:
        entry = json.loads((MODELS / f"{model}.json").read_text())
        defaults = entry["defaults"]
        members = {
            "id": model,
            "family": entry["family"],
            "path": str(MODELS / model),
            "scheduler": defaults["scheduler"],
            "guidance": defaults["guidance"],
            "max_sequence_length": defaults["maxSequenceLength"],
        }
        return spec(**members | changes)

    return make


@pytest.fixture(scope="session")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A warm runtime for each model's id."""
    from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

    made: dict[str, TorchRuntime] = {}

    def get(model: str) -> TorchRuntime:
        return made.setdefault(model, TorchRuntime(str(tmp_path_factory.mktemp("scratch"))))

    return get
