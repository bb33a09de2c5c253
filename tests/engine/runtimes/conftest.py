"""What every engine must do, on the tiny fixtures: each test here runs once for each installed engine, and a test that
uses ``model`` also once for each kind of model."""

from __future__ import annotations

import importlib.util

import pytest

from support.fixture_models import FAMILIES, job_for, warm  # noqa: F401
from support.runtimes import as_before, control, copy, folder, make_runtime, run, spec  # noqa: F401

_NEEDS = {"torch": ("torch", "diffusers"), "mlx": ("mlx", "tokenizers")}
_INSTALLED = [name for name, needs in _NEEDS.items() if all(importlib.util.find_spec(need) for need in needs)]

if not _INSTALLED:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in _INSTALLED])
def engine(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def model(request):
    return request.param


@pytest.fixture(scope="session")
def runtimes(engine, tmp_path_factory):
    """Return a warm runtime for a model's id."""
    return warm(engine, tmp_path_factory)


@pytest.fixture(scope="session")
def runtime(runtimes):
    """One runtime for all tests that do not need a cold one; it keeps its model loaded between them."""
    return runtimes("tiny-sd3")


@pytest.fixture
def cold(engine, tmp_path):
    """A runtime that has loaded nothing yet."""
    return make_runtime(engine, tmp_path / "scratch")
