"""The MLX engine's tests: on the CPU, without ``mx.compile``, as the engine runs there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if any(importlib.util.find_spec(name) is None for name in ("mlx", "torch", "diffusers")):
    collect_ignore_glob = ["test_*.py"]

from support.fixture_models import job_for  # noqa: F401
from support.runtimes import (  # noqa: F401
    as_before,
    control,
    copy,
    folder,
    make_runtime,
    mlx_as_in_the_engine,
    run,
    spec,
)  # fmt: skip

FIXTURES = Path(__file__).parents[3] / "fixtures" / "models"


@pytest.fixture
def untried(monkeypatch):
    """A process that has tried none of our own kernels, as at its start."""
    from locara_sidecar.engine.mlx_engine.kernels import group_statistics, rotated_heads, trials

    for tried in (group_statistics, rotated_heads):
        for name in ("_trusted", "_refused"):
            monkeypatch.setattr(tried._trials, name, set())
    trials.metal_kernel.cache_clear()
    yield
    trials.metal_kernel.cache_clear()


@pytest.fixture
def played(monkeypatch):
    """Metal's kernels on the processor."""
    import mlx.core as mx

    from support.metal_source import metal_kernel

    monkeypatch.setattr(mx.fast, "metal_kernel", metal_kernel)


@pytest.fixture(scope="session")
def tiny_sd3():
    return FIXTURES / "tiny-sd3"


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """One runtime for all tests that do not need a cold one; it keeps its model loaded between them."""
    return make_runtime("mlx", tmp_path_factory.mktemp("scratch"))
