"""Widens the trained networks to 16 latent channels: SD3's number, the only one that diffusers' inpainting takes.

The channels beyond the trained ones carry nothing. The encoder outputs 0 for them, the transformer neither reads nor
changes them, and the decoder ignores them, so they stay the noise that they began as.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

from pocket_model.latents import CHANNELS
from pocket_model.network import PATCH

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = 16
_LOG_VARIANCE = -12.0


def widened_transformer(model: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """The same transformer with PUBLISHED channels."""
    state = dict(model.state_dict())
    state["pos_embed.proj.weight"] = _padded(state["pos_embed.proj.weight"], 1)
    for name in ("proj_out.weight", "proj_out.bias"):
        patches = state[name].unflatten(0, (PATCH * PATCH, CHANNELS))  # the channel is the fastest index
        state[name] = _padded(patches, 1).flatten(0, 1)
    wide = SD3Transformer2DModel.from_config({**model.config, "in_channels": PUBLISHED, "out_channels": PUBLISHED})
    return _filled(wide, state)


def widened_autoencoder(model: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with PUBLISHED channels."""
    state = dict(model.state_dict())
    state["decoder.conv_in.weight"] = _padded(state["decoder.conv_in.weight"], 1)
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        both = state[name].unflatten(0, (2, CHANNELS))  # means, then logarithms of the variances
        state[name] = _padded(both, 1).flatten(0, 1)
    state["encoder.conv_out.bias"][PUBLISHED + CHANNELS :] = _LOG_VARIANCE
    return _filled(AutoencoderKL.from_config({**model.config, "latent_channels": PUBLISHED}), state)


def narrowed_transformer(model: SD3Transformer2DModel) -> SD3Transformer2DModel:
    """Undo :func:`widened_transformer`: training continues from the result."""
    state = dict(model.state_dict())
    state["pos_embed.proj.weight"] = state["pos_embed.proj.weight"][:, :CHANNELS]
    for name in ("proj_out.weight", "proj_out.bias"):
        state[name] = state[name].unflatten(0, (PATCH * PATCH, PUBLISHED))[:, :CHANNELS].flatten(0, 1)
    narrow = SD3Transformer2DModel.from_config({**model.config, "in_channels": CHANNELS, "out_channels": CHANNELS})
    return _filled(narrow, state)


def narrowed_autoencoder(model: AutoencoderKL) -> AutoencoderKL:
    """Undo :func:`widened_autoencoder`."""
    state = dict(model.state_dict())
    state["decoder.conv_in.weight"] = state["decoder.conv_in.weight"][:, :CHANNELS]
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        state[name] = state[name].unflatten(0, (2, PUBLISHED))[:, :CHANNELS].flatten(0, 1)
    return _filled(AutoencoderKL.from_config({**model.config, "latent_channels": CHANNELS}), state)


def _padded(x: Tensor, axis: int) -> Tensor:
    shape = list(x.shape)
    shape[axis] = PUBLISHED - CHANNELS
    return torch.cat([x, x.new_zeros(shape)], axis)


def _filled(network: Any, state: dict[str, Tensor]) -> Any:  # diffusers says that from_config may return a tuple
    # the position table is a parameter while it is trained and a buffer of every loaded model
    network.load_state_dict({name: value.contiguous() for name, value in state.items()}, strict=True)
    return network
