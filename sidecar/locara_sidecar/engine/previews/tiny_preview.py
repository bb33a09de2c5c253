"""The tiny decoder beside a model, for previews: a component ``tiny_vae`` of the class AutoencoderTiny.

Owned here: where it is looked for, and that a model is drawn with all the same when it cannot be used. Both engines
use it; each builds the network in its own way.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from locara_sidecar.engine.folder import model_folder, tensor_check
from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

NAME = "tiny_vae"
_logger = logging.getLogger(__name__)


def load(
    folder: Path,
    build: Callable[[model_folder.Component, model_folder.Progress], T],
    checkpoint: Callable[[], None],
) -> T | None:
    """What ``build`` makes of the decoder in a model's ``folder``; None where there is none or it cannot be used.

    :raises JobCancelled: between two tensors.
    """
    if not (folder / NAME / "config.json").is_file():
        return None
    try:
        component = model_folder.read_component(folder, NAME, "AutoencoderTiny", "diffusion_pytorch_model")
        tensor_check.check(component)
        return build(component, model_folder.Progress(component.size, _ignore, checkpoint))
    except (EngineError, RuntimeError, TypeError, ValueError) as error:
        _logger.warning("the tiny preview decoder cannot be used: %s", type(error).__name__)
        return None


def _ignore(fraction: float) -> None:
    del fraction
