"""Jobs for any of the fixture models, and a warm runtime for each; conftest.py files import the fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.runtimes import make_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.ipc.frames import JobSpec

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
FAMILIES = ["tiny-sd3", "tiny-flux", "tiny-flux-dev", "tiny-flux-kontext", "tiny-sdxl", "tiny-z-image", "tiny-flux2"]
"""The fixture models, one of each kind that the engines tell apart."""


@pytest.fixture(scope="session")
def job_for(spec: Any) -> Any:
    """Return a function that makes a job for a fixture model from its catalogue entry, as the daemon would."""

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


def warm(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function that gives a runtime for each model id, always the same one."""
    made: dict[str, Any] = {}

    def get(model: str) -> Any:
        if model not in made:
            made[model] = make_runtime(engine, tmp_path_factory.mktemp("scratch"))
        return made[model]

    return get
