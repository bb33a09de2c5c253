"""SDXL's denoiser (Podell et al., 2023, arXiv:2307.01952), as in diffusers' UNet2DConditionModel.

It is a convolutional U: the latent is halved in size level by level and then doubled again, and the output of each
stage on the way down is concatenated to the input of the matching stage on the way up. A stage is a residual block,
which takes the time, followed at the smaller levels by transformer blocks, which attend to the pixels and then to the
text.

What does not depend on the latent is computed once, before the loop: the time embedding for every residual block and
step, and the text's keys and values for every transformer block.

Channels come last: latents are (B, height, width, C).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.activations import ACTIVATIONS
from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import Mlp, sinusoids
from locara_sidecar.engine.mlx_engine.denoisers.unet_config import UnetConfig
from locara_sidecar.engine.mlx_engine.norms import normed, normed_alone
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.resizing import nearest
from locara_sidecar.engine.mlx_engine.tensors.weights import channels_last

if TYPE_CHECKING:
    from collections.abc import Iterator

KeysValues = tuple[mx.array, mx.array]
_BEHIND = [(0, 0), (0, 1), (0, 1), (0, 0)]
"""Padding by a row and a column of zeros, for downsampling without padding on all sides."""
_PIXELS_EPSILON = 1e-6
"""For the norm before transformer blocks, whatever the configuration says about the other norms."""


class Conditioning(NamedTuple):
    """Everything that controls a picture, in the order in which the network uses it.

    ``times``: for each residual block (steps, B, 1, 1, channels), or after :meth:`at` (B, 1, 1, channels). ``texts``:
    for each transformer block the text's keys and values, each (B, heads, tokens, size).
    """

    times: list[mx.array]
    texts: list[KeysValues]

    def at(self, step: int) -> Conditioning:
        """Return the conditioning of one step, from 0."""
        return Conditioning([time[step] for time in self.times], self.texts)


class ResnetBlock(nn.Module):
    """A residual block.

    :param divisor: divides the sum of both branches.
    """

    def __init__(self, before: int, after: int, config: UnetConfig, divisor: float = 1.0) -> None:
        super().__init__()
        self._act, self._divisor = ACTIVATIONS[config.act_fn], divisor
        self._scales = config.resnet_time_scale_shift == "scale_shift"
        self.norm1 = _norm(config.norm_num_groups, before, config.norm_eps)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(config.time_width, 2 * after if self._scales else after)
        self.norm2 = _norm(config.norm_num_groups, after, config.norm_eps)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.conv_shortcut = nn.Conv2d(before, after, 1)

    def __call__(self, x: mx.array, time: mx.array) -> mx.array:
        y = self.conv1(normed(self.norm1, x, self._act))
        if self._scales:
            scale, shift = mx.split(time, 2, axis=-1)
            y = self._act(normed(self.norm2, y) * (1 + scale) + shift)
        else:
            y = normed(self.norm2, y + time, self._act)
        y = (self.conv_shortcut(x) if "conv_shortcut" in self else x) + self.conv2(y)
        return y if self._divisor == 1 else y / self._divisor


class Attention(nn.Module):
    """Attention to the pixels or to the text.

    :param source: width of the input of keys and values.
    """

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source, width, bias=False)
        self.to_v = nn.Linear(source, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def keys_values(self, source: mx.array) -> KeysValues:
        return self._split(self.to_k(source)), self._split(self.to_v(source))

    def __call__(self, x: mx.array, seen: KeysValues) -> mx.array:
        q = self._split(self.to_q(x))
        y = mx.fast.scaled_dot_product_attention(q, *seen, scale=q.shape[-1] ** -0.5)
        return self.to_out(y.transpose(0, 2, 1, 3).reshape(x.shape))

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)


class TransformerBlock(nn.Module):
    """Attention to the pixels, then to the text, then a gated feed-forward (Shazeer, 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, text: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, text, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff_in = nn.Linear(width, 8 * width)
        self.ff_out = nn.Linear(4 * width, width)

    def __call__(self, x: mx.array, text: KeysValues) -> mx.array:
        normed = self.norm1(x)
        x = x + self.attn1(normed, self.attn1.keys_values(normed))
        x = x + self.attn2(self.norm2(x), text)
        value, gate = mx.split(self.ff_in(self.norm3(x)), 2, axis=-1)
        return x + self.ff_out(value * nn.gelu(gate))


class Transformer(nn.Module):
    """Transformer blocks over the pixels of one size."""

    def __init__(self, width: int, heads: int, depth: int, config: UnetConfig) -> None:
        super().__init__()
        self.norm = _norm(config.norm_num_groups, width, _PIXELS_EPSILON)
        # equivalent per pixel, except for the shape of the weights
        projection = (
            partial(nn.Linear, width, width) if config.use_linear_projection else partial(nn.Conv2d, width, width, 1)
        )
        self.proj_in = projection()
        self.blocks = [TransformerBlock(width, config.text_width, heads) for _ in range(depth)]
        self._compiled = compiled(self.blocks)
        self.proj_out = projection()

    def __call__(self, x: mx.array, texts: Iterator[KeysValues], pace: Paced) -> mx.array:
        batch, height, width, channels = x.shape
        y = self.proj_in(normed_alone(self.norm, x)).reshape(batch, height * width, channels)
        for block in self._compiled:
            y = block(y, next(texts))
            pace(x, y)
        return x + self.proj_out(y.reshape(x.shape))


class Level(nn.Module):
    """The stages at one size: residual blocks, each optionally followed by transformer blocks.

    :param widths: channels in and out of each residual block.
    :param level: index into the configuration's values, from the largest size.
    :param depths: how many transformer blocks follow each residual block; empty for none at all.
    :param divisor: that of the residual blocks.
    """

    def __init__(
        self,
        widths: list[tuple[int, int]],
        level: int,
        config: UnetConfig,
        depths: tuple[int, ...] = (),
        divisor: float = 1.0,
    ) -> None:
        super().__init__()
        self.resnets = [ResnetBlock(before, after, config, divisor) for before, after in widths]
        self._compiled = compiled(self.resnets)
        heads = config.heads[level]
        self.attentions = [
            Transformer(after, heads, depth, config) for (_, after), depth in zip(widths, depths, strict=False)
        ]

    def residual(self, i: int, x: mx.array, by: _Order) -> mx.array:
        """Run only the residual block ``i``."""
        return self._compiled[i](x, next(by.times))

    def step(self, i: int, x: mx.array, by: _Order, pace: Paced) -> mx.array:
        """Run the residual block ``i`` and the transformer blocks after it."""
        x = self.residual(i, x, by)
        pace(x, *by.kept)
        return self.attentions[i](x, by.texts, by.with_kept(pace)) if self.attentions else x


class Unet(nn.Module):
    """Predicts the noise in a latent from time, text and the picture's claimed sizes."""

    config_type: ClassVar = UnetConfig
    repeated: ClassVar = ("blocks",)

    def __init__(self, config: UnetConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.block_out_channels, len(config.block_out_channels) - 1
        window = config.conv_in_kernel
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], window, padding=window // 2)
        self.time_embedding = Mlp(widths[0], config.time_width, config.act_fn, config.timestep_post_act)
        self.add_embedding = Mlp(config.projection_class_embeddings_input_dim, config.time_width)
        self.down_blocks: list[Level] = []
        for i, kind in enumerate(config.down_block_types):
            pairs = [(widths[max(i - 1, 0)] if j == 0 else widths[i], widths[i]) for j in range(config.layers[i])]
            depths = config.down_depths(i) if kind.startswith("CrossAttn") else ()
            self.down_blocks.append(Level(pairs, i, config, depths))
        padding = config.downsample_padding
        self.shrink = [nn.Conv2d(width, width, 3, stride=2, padding=padding) for width in widths[:-1]]
        self.middle = _middle(config)
        self.up_blocks: list[Level] = []
        for i, kind in enumerate(config.up_block_types):
            level = last - i
            pairs: list[tuple[int, int]] = []
            for j in range(config.layers[level] + 1):
                before = widths[min(level + 1, last)] if j == 0 else widths[level]
                kept = widths[max(level - 1, 0)] if j == config.layers[level] else widths[level]
                pairs.append((before + kept, widths[level]))
            depths = config.up_depths(level) if kind.startswith("CrossAttn") else ()
            self.up_blocks.append(Level(pairs, level, config, depths))
        self.grow = [nn.Conv2d(width, width, 3, padding=1) for width in widths[:0:-1]]
        self.conv_norm_out = _norm(config.norm_num_groups, widths[0], config.norm_eps)
        window = config.conv_out_kernel
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, window, padding=window // 2)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        for theirs, ours in _RENAMED:
            key = key.replace(theirs, ours)
        parts = key.split(".")
        if "downsamplers" in parts:
            key = f"shrink.{parts[1]}.{parts[-1]}"
        elif "upsamplers" in parts:
            key = f"grow.{parts[1]}.{parts[-1]}"
        return key, channels_last(value)

    def steering(self, timesteps: mx.array, tokens: mx.array, pooled: mx.array, sizes: mx.array) -> Conditioning:
        """Compute the conditioning of all steps.

        :param timesteps: (steps,), 0 … 1000.
        :param tokens: (B, tokens, cross_attention_dim).
        :param pooled: (B, width of the second text encoder).
        :param sizes: (B, 6): original height and width, top and left of the crop, target height and width.
        """
        config = self.config
        waves = partial(sinusoids, shift=config.freq_shift, cosines_first=config.flip_sin_to_cos)
        time = self.time_embedding(waves(timesteps, config.block_out_channels[0]).astype(tokens.dtype))
        numbers = waves(sizes.reshape(-1), config.addition_time_embed_dim).reshape(sizes.shape[0], -1)
        added = self.add_embedding(mx.concatenate([pooled, numbers.astype(pooled.dtype)], axis=-1))
        both = time[:, None] + added[None]
        if config.time_embedding_act_fn is not None:
            both = ACTIVATIONS[config.time_embedding_act_fn](both)
        both = ACTIVATIONS[config.act_fn](both)[:, :, None, None]  # (steps, B, 1, 1, time width)
        levels = [*self.down_blocks, *([] if self.middle is None else [self.middle]), *self.up_blocks]
        blocks = [block for level in levels for attention in level.attentions for block in attention.blocks]
        return Conditioning(
            [resnet.time(both) for level in levels for resnet in level.resnets],
            [block.attn2.keys_values(tokens) for block in blocks],
        )

    def __call__(self, latent: mx.array, by: Conditioning, pace: Paced = unpaced) -> mx.array:
        """Evaluate the network once.

        :param latent: (B, height, width, C), scaled for its noise level, of any size.
        :param by: the step's conditioning.
        :returns: the noise, like ``latent``.
        """
        order = _Order(by)
        x = self.conv_in(2 * latent - 1 if self.config.center_input_sample else latent)
        order.kept.append(x)
        for i, level in enumerate(self.down_blocks):
            for j in range(len(level.resnets)):
                x = level.step(j, x, order, pace)
                order.kept.append(x)
            if i < len(self.shrink):
                x = self.shrink[i](x if self.config.downsample_padding else mx.pad(x, _BEHIND))
                order.kept.append(x)
        if self.middle is not None:
            x = self.middle.step(0, x, order, pace)
        if self.middle is not None and self.middle.attentions:
            x = self.middle.residual(1, x, order)
        for i, level in enumerate(self.up_blocks):
            for j in range(len(level.resnets)):
                x = level.step(j, mx.concatenate([x, order.kept.pop()], axis=-1), order, pace)
            if i < len(self.grow):
                x = self.grow[i](nearest(x, order.kept[-1].shape[1:3]))
        return self.conv_out(normed_alone(self.conv_norm_out, x, ACTIVATIONS[self.config.act_fn]))


def _middle(config: UnetConfig) -> Level | None:
    """Build the middle: two residual blocks with attention between them, or one without, or nothing."""
    if config.mid_block_type is None:
        return None
    width, last, depth = config.block_out_channels[-1], len(config.block_out_channels) - 1, config.middle_depth
    pairs, depths = [(width, width)] * (1 if depth is None else 2), () if depth is None else (depth,)
    return Level(pairs, last, config, depths, config.mid_block_scale_factor)


class _Order:
    """The state of one evaluation: the conditioning still to be used, and the skip connections."""

    def __init__(self, by: Conditioning) -> None:
        self.times = iter(by.times)
        self.texts = iter(by.texts)
        self.kept: list[mx.array] = []

    def with_kept(self, pace: Paced) -> Paced:
        """Return a pace that includes the skip connections, since the next block depends on them, too."""

        def paced(*state: mx.array) -> None:
            pace(*state, *self.kept)

        return paced


def _norm(groups: int, channels: int, epsilon: float) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=epsilon, pytorch_compatible=True)


_RENAMED = (
    ("mid_block.", "middle."),
    ("time_emb_proj.", "time."),
    ("transformer_blocks.", "blocks."),
    ("to_out.0.", "to_out."),
    ("ff.net.0.proj.", "ff_in."),
    ("ff.net.2.", "ff_out."),
)
