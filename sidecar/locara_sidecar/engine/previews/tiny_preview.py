"""The tiny preview decoder of a model: an optional component ``tiny_vae`` of class AutoencoderTiny.

This module finds it, and makes sure that a model remains usable if its tiny decoder is not. Both engines use it; each
builds the network in its own way.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from locara_sidecar.engine.folder import config_check, model_folder, tensor_check
from locara_sidecar.ipc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

NAME = "tiny_vae"
_logger = logging.getLogger(__name__)
_DEFAULTS: dict[str, Any] = {
    "decoder_block_out_channels": [64, 64, 64, 64],
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "latent_channels": 4,
    "upsampling_scaling_factor": 2,
}
"""The same as in diffusers."""


def load(
    folder: Path,
    build: Callable[[model_folder.Component, model_folder.Progress], T],
    checkpoint: Callable[[], None],
    *,
    channels: int,
    factor: int,
    engine: str,
) -> T | None:
    """Call ``build`` on the tiny decoder in a model's ``folder``. None if there is none or it cannot be used.

    :param channels: channels of the model's latents.
    :param factor: pixels per latent pixel along each side, of the model's own decoder.
    :raises JobCancelled: between two tensors.
    """
    if not (folder / NAME / "config.json").is_file():
        return None
    try:
        component = model_folder.read_component(folder, NAME, "AutoencoderTiny", "diffusion_pytorch_model")
        config = config_check.reduced(f"{NAME}/config.json", component.class_name, component.config, engine)
        tensors = tensor_check.check(component)
        component = msgspec.structs.replace(component, config=config)
        _require_like(component, len(tensors), channels, factor)
        return build(component, model_folder.Progress(component.size, _ignore, checkpoint))
    except (EngineError, RuntimeError, TypeError, ValueError) as error:
        _logger.warning("the tiny preview decoder cannot be used: %s", type(error).__name__)
        return None


def _require_like(component: model_folder.Component, tensors: int, channels: int, factor: int) -> None:
    """Require that it has weights for all its blocks, and fits the model's latent channels and picture size.

    :raises EngineError: IntegrityError.
    """
    whole = _DEFAULTS | component.config
    widths, blocks = whole["decoder_block_out_channels"], whole["num_decoder_blocks"]
    means, deviations = whole.get("latents_mean"), whole.get("latents_std")
    fits = (
        len(widths) == len(blocks)
        and sum(blocks) + sum(whole["num_encoder_blocks"]) <= tensors
        and whole["latent_channels"] == channels
        and whole["upsampling_scaling_factor"] ** (len(widths) - 1) == factor
        and all(value is None or len(value) == channels for value in (means, deviations))
        and (means is None) == (deviations is None)
    )
    if not fits:
        raise model_folder.broken(f"{NAME}/config.json", "it does not match the model or the weights beside it")


def _ignore(fraction: float) -> None:
    del fraction
