"""A warm torch runtime on the tiny fixture, and diffusers' own pipeline to compare with."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from support.fixture_models import job_for, warm  # noqa: F401
from support.runtimes import FOLDER, as_before, control, copy, folder, run, spec  # noqa: F401

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def runtimes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a warm runtime for a fixture model's id."""
    return warm("torch", tmp_path_factory)


@pytest.fixture(scope="session")
def runtime(runtimes: Any) -> Any:
    """One runtime for all tests that do not need a cold one; it keeps its model loaded between them."""
    return runtimes("tiny-sd3")


@pytest.fixture(scope="session")
def diffusers_pipeline(request: pytest.FixtureRequest) -> Any:
    """diffusers' own loading and pipeline. It follows the runtime, whose settings keep the libraries quiet."""
    job = request.getfixturevalue("spec")()
    request.getfixturevalue("run")(request.getfixturevalue("runtime"), job)
    import torch
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(str(FOLDER), dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(request.getfixturevalue("runtime").device)
