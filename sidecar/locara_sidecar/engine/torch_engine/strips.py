"""Run diffusers' AutoencoderKL in strips (``engine/drawing/strips.py``).

Its encoder and decoder get another ``forward`` within a context. What surrounds them stays diffusers': the small
convolutions between latents and maps, and the distribution that an encoder returns. Layers are called as modules, so
that their hooks can stop a job between strips.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from locara_sidecar.engine.drawing.strips import Bands, Layer, Strips
from locara_sidecar.machine import memory

if TYPE_CHECKING:
    from collections.abc import Generator

_SCORES = 1 << 26
"""Maximum number of attention scores at a time, for devices without a memory-efficient kernel."""


@contextlib.contextmanager
def in_strips(vae: Any, strips: Strips[torch.Tensor] | None = None) -> Generator[None]:
    """Within the block, the autoencoder encodes and decodes in strips."""
    made = TorchStrips() if strips is None else strips
    encoder, decoder = vae.encoder, vae.decoder
    before = [_own_forward(part) for part in (encoder, decoder)]  # they exist already during a job's preview

    def encoded(sample: torch.Tensor) -> torch.Tensor:
        with memory.large_blocks_apart():
            return _encoded(made, encoder, sample)

    def decoded(sample: torch.Tensor, latent_embeds: None = None) -> torch.Tensor:
        del latent_embeds
        with memory.large_blocks_apart():
            return _decoded(made, decoder, sample)

    encoder.forward, decoder.forward = encoded, decoded
    try:
        yield
    finally:
        for part, forward in zip((encoder, decoder), before, strict=True):
            del part.forward
            if forward is not None:
                part.forward = forward


class TorchStrips(Strips[torch.Tensor]):
    """Strips of maps (B, C, height, width)."""

    rows_axis = 2

    def join(self, arrays: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(arrays, dim=self.rows_axis)

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0)
        return mean, variance

    def stacked(self, values: list[Any]) -> torch.Tensor:
        return torch.stack(values)

    def beside(self, values: list[float], array: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=array.device)

    def activated(self, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        y = (x * scale[:, :, None, None]).add_(shift[:, :, None, None])  # float32, whatever the type of x
        return functional.silu(y.to(x.dtype), inplace=True)

    def groups(self, norm: Layer) -> int:
        return norm.num_groups

    def _wide(self, values: Any) -> torch.Tensor:
        return values.detach().float()


def _own_forward(part: Any) -> Any:
    """Return the instance attribute that overrides the ``forward`` of its class, if any."""
    return part.__dict__.get("forward")


def _decoded(strips: Strips[torch.Tensor], decoder: Any, sample: torch.Tensor) -> torch.Tensor:
    x = strips.convolved(decoder.conv_in, strips.bands(sample))
    x = _middle(strips, decoder.mid_block, x)
    for level in decoder.up_blocks:
        for block in level.resnets:
            x = strips.residual(block, x)
        for layer in level.upsamplers or ():
            x = strips.enlarged(layer, x)
    return strips.whole(strips.convolved(decoder.conv_out, x, decoder.conv_norm_out))


def _encoded(strips: Strips[torch.Tensor], encoder: Any, sample: torch.Tensor) -> torch.Tensor:
    x = strips.convolved(encoder.conv_in, strips.bands(sample))
    for level in encoder.down_blocks:
        for block in level.resnets:
            x = strips.residual(block, x)
        for layer in level.downsamplers or ():
            x = strips.halved(layer, x)
    x = _middle(strips, encoder.mid_block, x)
    return strips.whole(strips.convolved(encoder.conv_out, x, encoder.conv_norm_out))


def _middle(strips: Strips[torch.Tensor], middle: Any, x: Bands[torch.Tensor]) -> Bands[torch.Tensor]:
    x = strips.residual(middle.resnets[0], x)
    for attention, block in zip(middle.attentions, middle.resnets[1:], strict=True):
        if attention is not None:
            x = strips.bands(_attended(attention, strips.whole(x)))
        x = strips.residual(block, x)
    return x


def _attended(attention: Any, x: torch.Tensor) -> torch.Tensor:
    """Apply attention over all pixels as diffusers' processor does, for a part of the queries at a time."""
    batch, channels, height, width = x.shape
    pixels = height * width
    y = attention.group_norm(x.reshape(batch, channels, pixels)).transpose(1, 2)
    shape = (batch, pixels, attention.heads, -1)
    q, k, v = (layer(y).view(shape).transpose(1, 2) for layer in (attention.to_q, attention.to_k, attention.to_v))
    del y
    queries = max(1, _SCORES // (pixels * attention.heads))
    seen = [functional.scaled_dot_product_attention(part, k, v) for part in q.split(queries, dim=2)]
    y = attention.to_out[0](torch.cat(seen, dim=2).transpose(1, 2).reshape(batch, pixels, -1))
    return (y.transpose(1, 2).reshape(x.shape) + x) / attention.rescale_output_factor
