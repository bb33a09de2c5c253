"""The decoder of a tiny autoencoder (TAESD), as in diffusers' AutoencoderTiny.

It consists of plain convolutions trained to imitate the full decoder. It is used for previews only, so there is no
encoder. Channels come last: latents (B, height / f, width / f, C), pixels (B, height, width, 3) in about -1 … 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.autoencoders.vae import to_raw
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.tensors.weights import channels_last

_REACH = 3.0
"""Latents are squashed into this range on both sides of 0."""


@dataclass(frozen=True)
class TinyVaeConfig:
    """``config.json``, with diffusers' defaults. Published decoders all use this activation and resizing."""

    out_channels: int = 3
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    act_fn: Literal["relu"] = "relu"
    upsample_fn: Literal["nearest"] = "nearest"
    latent_channels: int = 4
    upsampling_scaling_factor: int = 2
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0
    shift_factor: float | None = 0.0
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None


class Block(nn.Module):
    """Three convolutions with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = [_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        y = x
        for layer in self.conv:
            y = layer(y)
        return nn.relu(x + y)


class TinyVae(nn.Module):
    """A flat list of layers, numbered as in the files: per size its blocks and a convolution, then upsampling."""

    config_type: ClassVar = TinyVaeConfig

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        self.config = config
        widths, counts = config.decoder_block_out_channels, config.num_decoder_blocks
        layers: list[nn.Module] = [_conv(config.latent_channels, widths[0]), nn.ReLU()]
        for width, count in zip(widths[:-1], counts[:-1], strict=True):
            layers += [Block(width) for _ in range(count)]
            layers += [nn.Upsample(config.upsampling_scaling_factor), _conv(width, width, bias=False)]
        layers += [Block(widths[-1]) for _ in range(counts[-1])]
        self.layers = [*layers, _conv(widths[-1], config.out_channels)]

    @property
    def dtype(self) -> mx.Dtype:
        """The type in which it computes."""
        first: Any = self.layers[0]
        return first.weight.dtype

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        return key.removeprefix("decoder."), channels_last(value)

    def decode(self, latent: mx.array, pace: Paced = unpaced) -> mx.array:
        """Decode a denoiser's latent to pixels."""
        x = to_raw(latent, self.config).astype(self.dtype)
        x = mx.tanh(x / _REACH) * _REACH
        for layer in self.layers:
            x = layer(x)
            pace(x)
        return 2 * x - 1


def _conv(before: int, after: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=bias)
