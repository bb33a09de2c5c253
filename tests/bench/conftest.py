"""Skips the tests of the MLX benchmarks where that engine is not installed."""

from __future__ import annotations

import importlib.util

if any(importlib.util.find_spec(name) is None for name in ("mlx", "torch", "diffusers")):
    collect_ignore_glob = ["test_*.py"]

from support.runtimes import as_before, mlx_as_in_the_engine  # noqa: F401
