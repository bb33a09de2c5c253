"""What the libraries are told before they are imported: no network, no progress bars, no advice, caches in scratch.

Owned here: the environment variables and the verbosity of torch's friends.
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
    """Set the variables; must run before transformers, diffusers or huggingface_hub are imported."""
    os.environ.update(_SWITCHES)
    os.environ.update({name: str(Path(scratch) / folder) for name, folder in _CACHES.items()})


@contextlib.contextmanager
def _hidden(package: str) -> Generator[None]:
    """Let nobody import ``package``: diffusers would, which takes long, for quantizers of its own that stay unused.
    It looks for the package as it is imported itself, so afterwards (outside of an engine) nothing is hidden."""
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
    """What is imported in here keeps its functions as they are written, where it would have torch compile them."""
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

    That takes seconds in which nothing can stop it, so it is done before the engine is ready: a job that is cancelled
    meanwhile has not reached the engine and is answered at once, and the next one finds everything imported.

    Error level matters beyond looks: diffusers' warning about a truncated prompt holds the prompt.
    """
    with _hidden("bitsandbytes"):
        for name in _LIBRARIES:
            importlib.import_module(name)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises to fetch more kernels from the hub
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
