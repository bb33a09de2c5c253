"""FLUX.2's autoencoder, as in diffusers' AutoencoderKLFlux2: AutoencoderKL's layers, and another scaling.

A denoiser's latent is *packed*: 2 x 2 pixels of the raw one are the channels of one pixel, and each of these channels
is scaled by its own mean and variance, which are stored among the weights as the running statistics of a batch norm.
Only FLUX.2's loop uses packed latents; a latent that leaves the loop is raw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.autoencoders.vae import Vae, VaeConfig

_PACK = 2


@dataclass(frozen=True)
class Flux2VaeConfig(VaeConfig):
    """``config.json``, with diffusers' defaults."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 32
    batch_norm_eps: float = 1e-4


class Statistics(nn.Module):
    """Mean and variance of each channel of packed latents."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean = mx.zeros((channels,))
        self.running_var = mx.ones((channels,))


class Flux2Vae(Vae):
    """Encoder and decoder, and the conversion between raw latents and packed ones."""

    config_type: ClassVar = Flux2VaeConfig

    def __init__(self, config: Flux2VaeConfig) -> None:
        super().__init__(config)
        self._epsilon = config.batch_norm_eps
        self.bn = Statistics(_PACK * _PACK * config.latent_channels)

    def to_raw(self, latent: mx.array) -> mx.array:
        """Return the latent: outside its loop it is a raw one."""
        return latent

    def from_raw(self, raw: mx.array) -> mx.array:
        """Return the latent: outside its loop it is a raw one."""
        return raw

    def packed(self, raw: mx.array) -> mx.array:
        """Convert a raw latent (B, h, w, C) to a denoiser's (B, h / 2, w / 2, 4 x C), in float32."""
        batch, height, width, channels = raw.shape
        x = raw.astype(mx.float32).reshape(batch, height // _PACK, _PACK, width // _PACK, _PACK, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // _PACK, width // _PACK, -1)
        return (x - self._mean) / self._deviation

    def unpacked(self, latent: mx.array) -> mx.array:
        """Convert a denoiser's latent to a raw one, in float32; the inverse of :meth:`packed`."""
        batch, height, width, channels = latent.shape
        x = latent.astype(mx.float32) * self._deviation + self._mean
        x = x.reshape(batch, height, width, channels // _PACK**2, _PACK, _PACK)
        return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * _PACK, width * _PACK, -1)

    @property
    def _mean(self) -> mx.array:
        return self.bn.running_mean.astype(mx.float32)

    @property
    def _deviation(self) -> mx.array:
        return mx.sqrt(self.bn.running_var.astype(mx.float32) + self._epsilon)
