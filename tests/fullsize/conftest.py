"""The full-size runs' own tests, on small models."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
    collect_ignore_glob = ["test_*.py"]
elif importlib.util.find_spec("mlx") is None:
    collect_ignore_glob = ["test_fullsize.py"]

from support.runtimes import as_before, mlx_as_in_the_engine  # noqa: F401
