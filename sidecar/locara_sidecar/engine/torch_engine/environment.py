"""What the libraries are told before they are imported: no network, no progress bars, no advice, caches in scratch.

Owned here: the environment variables and the verbosity of torch's friends. Importing them takes seconds,
so :func:`import_libraries` does it piece by piece and lets a job be cancelled in between.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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
_LIBRARIES = (
    "transformers",
    "transformers.modeling_utils",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
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


def import_libraries(checkpoint: Callable[[], None]) -> None:
    """Import what every family needs, calling ``checkpoint`` between the pieces, and silence it.

    Error level matters beyond looks: diffusers' warning about a truncated prompt holds the prompt.
    """
    for name in _LIBRARIES:
        checkpoint()
        importlib.import_module(name)
    checkpoint()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
