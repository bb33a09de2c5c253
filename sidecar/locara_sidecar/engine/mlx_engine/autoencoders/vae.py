"""The autoencoder between pixels and latents, as in diffusers' AutoencoderKL (Rombach et al., 2022, arXiv:2112.10752).

It consists of residual convolutions, halved or doubled in size between levels, with attention in the middle. Channels
come last everywhere: pixels (B, height, width, 3) in about -1 … 1, latents (B, height / f, width / f, C). A latent is
*raw* as the decoder takes it and the encoder returns it; the denoiser's is ``(raw - shift) * scale``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.norms import normed, normed_alone
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.resizing import doubled
from locara_sidecar.engine.mlx_engine.strips import MlxStrips
from locara_sidecar.engine.mlx_engine.tensors.weights import channels_last

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.strips import Bands, Strips

_EPSILON = 1e-6
_SCORES = 1 << 26
"""Maximum number of scores that the attention in the middle computes at a time.

All of them would take half a gigabyte at 128 x 128, and sixteen times that at 256 x 256.
"""


@dataclass(frozen=True)
class VaeConfig:
    """``config.json``, with diffusers' defaults."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: Literal["silu"] = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def factor(self) -> int:
        """Pixels per latent pixel, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


class Scaling(Protocol):
    """The part of an autoencoder's configuration that relates a denoiser's latent to a raw one."""

    @property
    def scaling_factor(self) -> float: ...

    @property
    def shift_factor(self) -> float | None: ...

    @property
    def latents_mean(self) -> tuple[float, ...] | None:
        """Mean of each channel of the raw latent. Either both means and deviations are set, or neither."""
        ...

    @property
    def latents_std(self) -> tuple[float, ...] | None: ...


class Posterior(NamedTuple):
    """The encoder's output: a normal distribution for each element of the raw latent."""

    mean: mx.array
    deviation: mx.array


class ResnetBlock(nn.Module):
    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(groups, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = _norm(groups, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.conv_shortcut = nn.Conv2d(before, after, 1)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.conv1(normed(self.norm1, x, nn.silu))
        y = self.conv2(normed(self.norm2, y, nn.silu))
        return (self.conv_shortcut(x) if "conv_shortcut" in self else x) + y


class Attention(nn.Module):
    """Attention with one head over all pixels."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = _norm(groups, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def __call__(self, x: mx.array, pace: Paced) -> mx.array:
        batch, height, width, channels = x.shape
        y = normed_alone(self.group_norm, x).reshape(batch, 1, height * width, channels)
        q, k, v = self.to_q(y), self.to_k(y), self.to_v(y)
        seen: list[mx.array] = []
        queries = max(1, _SCORES // (height * width))
        for start in range(0, height * width, queries):
            part = q[:, :, start : start + queries]
            seen.append(mx.fast.scaled_dot_product_attention(part, k, v, scale=channels**-0.5))
            pace(seen[-1])
        return x + self.to_out(mx.concatenate(seen, axis=2)).reshape(x.shape)


class MiddleBlock(nn.Module):
    def __init__(self, channels: int, config: VaeConfig) -> None:
        super().__init__()
        groups = config.norm_num_groups
        self.resnets = [ResnetBlock(channels, channels, groups) for _ in range(2)]
        self._compiled = compiled(self.resnets)
        self.attentions = [Attention(channels, groups)] if config.mid_block_add_attention else []

    def __call__(self, x: mx.array, pace: Paced) -> mx.array:
        x = self._compiled[0](x)
        for attention in self.attentions:
            x = attention(x, pace)
        x = self._compiled[1](x)
        pace(x)
        return x

    def in_strips(self, strips: Strips[mx.array], x: Bands[mx.array], pace: Paced) -> Bands[mx.array]:
        x = strips.residual(self.resnets[0], x)
        for attention in self.attentions:
            x = strips.bands(attention(strips.whole(x), pace))
        return strips.residual(self.resnets[1], x)


class Level(nn.Module):
    """Residual blocks at one size, followed by a change of size (``conv``) except at the last level."""

    def __init__(self, before: int, after: int, layers: int, groups: int, *, resize: bool) -> None:
        super().__init__()
        self.resnets = [ResnetBlock(before if i == 0 else after, after, groups) for i in range(layers)]
        self._compiled = compiled(self.resnets)
        self._resize = resize

    def _blocks(self, x: mx.array, pace: Paced) -> mx.array:
        for block in self._compiled:
            x = block(x)
            pace(x)
        return x

    def _blocks_in_strips(self, strips: Strips[mx.array], x: Bands[mx.array]) -> Bands[mx.array]:
        for block in self.resnets:
            x = strips.residual(block, x)
        return x


class DownLevel(Level):
    def __init__(self, before: int, after: int, layers: int, groups: int, *, resize: bool) -> None:
        super().__init__(before, after, layers, groups, resize=resize)
        if resize:
            self.conv = nn.Conv2d(after, after, 3, stride=2)

    def __call__(self, x: mx.array, pace: Paced) -> mx.array:
        x = self._blocks(x, pace)
        if self._resize:
            x = self._halved(x)
            pace(x)
        return x

    def in_strips(self, strips: Strips[mx.array], x: Bands[mx.array]) -> Bands[mx.array]:
        x = self._blocks_in_strips(strips, x)
        return strips.halved(self._halved, x) if self._resize else x

    def _halved(self, x: mx.array) -> mx.array:
        return self.conv(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]))  # right and bottom only


class UpLevel(Level):
    def __init__(self, before: int, after: int, layers: int, groups: int, *, resize: bool) -> None:
        super().__init__(before, after, layers, groups, resize=resize)
        if resize:
            self.conv = nn.Conv2d(after, after, 3, padding=1)

    def __call__(self, x: mx.array, pace: Paced) -> mx.array:
        x = self._blocks(x, pace)
        if self._resize:
            x = self._enlarged(x)
            pace(x)
        return x

    def in_strips(self, strips: Strips[mx.array], x: Bands[mx.array]) -> Bands[mx.array]:
        x = self._blocks_in_strips(strips, x)
        return strips.enlarged(self._enlarged, x) if self._resize else x

    def _enlarged(self, x: mx.array) -> mx.array:
        return self.conv(doubled(x))


class Encoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = [
            DownLevel(channels[max(i - 1, 0)], width, config.layers_per_block, groups, resize=i < last)
            for i, width in enumerate(channels)
        ]
        self.mid_block = MiddleBlock(channels[-1], config)
        self.conv_norm_out = _norm(groups, channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def __call__(self, x: mx.array, pace: Paced) -> mx.array:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x, pace)
        x = self.mid_block(x, pace)
        return self.conv_out(normed_alone(self.conv_norm_out, x, nn.silu))

    def in_strips(self, pixels: mx.array, pace: Paced) -> mx.array:
        """Encode strip by strip."""
        strips = MlxStrips(pace)
        x = strips.convolved(self.conv_in, strips.bands(pixels))
        for level in self.down_blocks:
            x = level.in_strips(strips, x)
        x = self.mid_block.in_strips(strips, x, pace)
        return strips.whole(strips.convolved(self.conv_out, x, self.conv_norm_out))


class Decoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MiddleBlock(channels[0], config)
        self.up_blocks = [
            UpLevel(channels[max(i - 1, 0)], width, config.layers_per_block + 1, groups, resize=i < last)
            for i, width in enumerate(channels)
        ]
        self.conv_norm_out = _norm(groups, channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def __call__(self, z: mx.array, pace: Paced) -> mx.array:
        x = self.mid_block(self.conv_in(z), pace)
        for level in self.up_blocks:
            x = level(x, pace)
        return self.conv_out(normed_alone(self.conv_norm_out, x, nn.silu))

    def in_strips(self, z: mx.array, pace: Paced) -> mx.array:
        """Decode strip by strip."""
        strips = MlxStrips(pace)
        x = self.mid_block.in_strips(strips, strips.convolved(self.conv_in, strips.bands(z)), pace)
        for level in self.up_blocks:
            x = level.in_strips(strips, x)
        return strips.whole(strips.convolved(self.conv_out, x, self.conv_norm_out))


class Vae(nn.Module):
    """Encoder and decoder, and the conversion between raw latents and a denoiser's."""

    config_type: ClassVar = VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.use_quant_conv:
            self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        if config.use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    @property
    def dtype(self) -> mx.Dtype:
        """The type in which it computes."""
        return self.decoder.conv_in.weight.dtype

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        for theirs, ours in _RENAMED:
            key = key.replace(theirs, ours)
        return key, channels_last(value)

    def encode(self, pixels: mx.array, pace: Paced = unpaced, *, tiled: bool = False) -> Posterior:
        """Encode pixels to the distribution of the raw latent.

        :param tiled: see :meth:`decode`.
        """
        moments = self.encoder.in_strips(pixels, pace) if tiled else self.encoder(pixels, pace)
        if "quant_conv" in self:
            moments = self.quant_conv(moments)
        mean, log_variance = mx.split(moments, 2, axis=-1)
        return Posterior(mean, mx.exp(0.5 * mx.clip(log_variance, -30.0, 20.0)))

    def decode(self, raw: mx.array, pace: Paced = unpaced, *, tiled: bool = False) -> mx.array:
        """Decode a raw latent to pixels.

        :param tiled: in strips (``engine/drawing/strips.py``), which needs a quarter of the memory; the same up to
            rounding.
        """
        z = self.post_quant_conv(raw) if "post_quant_conv" in self else raw
        return self.decoder.in_strips(z, pace) if tiled else self.decoder(z, pace)

    def to_raw(self, latent: mx.array) -> mx.array:
        """Convert a denoiser's latent to a raw one."""
        return to_raw(latent, self.config)

    def from_raw(self, raw: mx.array) -> mx.array:
        """Convert a raw latent to a denoiser's."""
        return from_raw(raw, self.config)


_RENAMED = (
    ("downsamplers.0.", ""),
    ("upsamplers.0.", ""),
    ("to_out.0.", "to_out."),
    # names of attention layers in files written by diffusers up to 0.16
    ("attentions.0.query.", "attentions.0.to_q."),
    ("attentions.0.key.", "attentions.0.to_k."),
    ("attentions.0.value.", "attentions.0.to_v."),
    ("attentions.0.proj_attn.", "attentions.0.to_out."),
)


def to_raw(latent: mx.array, config: Scaling) -> mx.array:
    """Convert a denoiser's latent to a raw one for a decoder with that configuration."""
    if config.latents_mean is not None and config.latents_std is not None:
        mean, deviation = (mx.array(values, latent.dtype) for values in (config.latents_mean, config.latents_std))
        return latent * deviation / config.scaling_factor + mean
    return latent / config.scaling_factor + (config.shift_factor or 0.0)


def from_raw(raw: mx.array, config: Scaling) -> mx.array:
    """Convert a raw latent to that of a denoiser whose autoencoder has that configuration."""
    if config.latents_mean is not None and config.latents_std is not None:
        mean, deviation = (mx.array(values, raw.dtype) for values in (config.latents_mean, config.latents_std))
        return (raw - mean) * config.scaling_factor / deviation
    return (raw - (config.shift_factor or 0.0)) * config.scaling_factor


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=_EPSILON, pytorch_compatible=True)
