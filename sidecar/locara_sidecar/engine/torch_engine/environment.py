"""Configure the libraries before they are imported: no network, progress bars or advice, and caches in scratch.

This module sets the environment variables and the verbosity of torch and the libraries around it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Generator

_SWITCHES = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_DEFAULTS = {"MKL_CBWR": "AUTO,STRICT"}
"""Defaults that the user's environment overrides. On Intel processors MKL's products otherwise depend on the addresses
of the operands: on one such machine the same seed gave pictures that differed by a level in single pixels."""
_CACHES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
_TEXT_PACKAGES = sorted({kind.packages[1] for row in FAMILIES.values() for kind in row.tokenizers.values()})
_LIBRARIES = (
    "transformers",
    "transformers.modeling_utils",
    *(f"transformers.models.{package}.modeling_{package}" for package in _TEXT_PACKAGES),
    "diffusers",
    "diffusers.models.modeling_utils",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.pipelines.pipeline_utils",
)


def prepare(scratch: str) -> None:
    """Set the variables. Call this before importing transformers, diffusers or huggingface_hub."""
    os.environ.update(_SWITCHES)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update({name: str(Path(scratch) / folder) for name, folder in _CACHES.items()})


@contextlib.contextmanager
def _hidden(package: str) -> Generator[None]:
    """Prevent imports of ``package`` within the block.

    diffusers would import it for its own quantizers, which takes long and which the engine does not use. diffusers
    looks for the package while it is being imported itself, so afterwards (outside of an engine) nothing is hidden.
    """
    if package in sys.modules or "diffusers" in sys.modules:
        yield
        return
    sys.modules[package] = cast("Any", None)
    try:
        yield
    finally:
        del sys.modules[package]


@contextlib.contextmanager
def uncompiled() -> Generator[None]:
    """Within the block, imported modules keep functions as written that they would otherwise have torch compile."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TORCHDYNAMO_DISABLE"]
        if before is not None:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def import_libraries() -> None:
    """Import what every family needs, and silence it.

    This takes seconds and cannot be interrupted, so it happens before the engine is ready: a job that is cancelled
    meanwhile has not reached the engine and is answered at once, and the next one finds everything imported.

    The log level "error" is not only cosmetic: diffusers' warning about a truncated prompt contains the prompt.
    """
    with _hidden("bitsandbytes"):
        for name in _LIBRARIES:
            importlib.import_module(name)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises downloading more kernels from the hub
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
