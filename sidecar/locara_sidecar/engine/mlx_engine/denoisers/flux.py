"""FLUX.1's transformer (Black Forest Labs, 2024): schnell, dev and Kontext.

Double blocks, as in MMDiT, and then single blocks over both streams as one sequence (:mod:`.streams`). Time, pooled
text and, in models distilled with it, guidance control every block through modulation (see ``mmdit.py``), which is
computed for all steps at once.

Positions are rotary embeddings of queries and keys (:mod:`.rotary`) on three axes: the first distinguishes the picture
from Kontext's reference pictures (0 and 1), the others are row and column. Text is at 0.

A token is 2 x 2 latent pixels, *packed*. In float16, sums of branches are wider (:mod:`.headroom`).

Channels come last: latents are (B, height, width, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.denoisers import headroom, rotary, streams
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import FeedForward, Mlp, sinusoids
from locara_sidecar.engine.mlx_engine.norms import EPSILON, modulated, raised
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.rotation import by_axis

_FREQUENCIES = 256
_BASE = 10_000.0
_PACK = 2

Size = tuple[int, int]


@dataclass(frozen=True)
class FluxConfig:
    """``config.json``, with diffusers' defaults."""

    patch_size: Literal[1] = 1
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)

    def __post_init__(self) -> None:
        if sum(self.axes_dims_rope) != self.attention_head_dim or any(size % 2 for size in self.axes_dims_rope):
            raise ValueError("axes_dims_rope must be even numbers that add up to attention_head_dim")

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def rotated_heads(self) -> tuple[int, int]:
        """The number of heads whose queries and keys are normed and rotated, and the size of a head."""
        return self.num_attention_heads, self.attention_head_dim


class Modulation(NamedTuple):
    """Shifts, scales (1 added) and gates of the double blocks' streams, the single blocks and the last norm.

    Each is (steps, B, 1, k x width), or after :meth:`at` (B, 1, k x width); in float32 for float16.
    """

    image: list[mx.array]
    text: list[mx.array]
    single: list[mx.array]
    out: mx.array

    def at(self, step: int) -> Modulation:
        """Return the modulation of one step, from 0."""
        image, text, single = ([m[step] for m in part] for part in (self.image, self.text, self.single))
        return Modulation(image, text, single, self.out[step])


class DoubleBlock(streams.DoubleBlock):
    """Both streams are in float32 if the weights are in float16."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(width, 6 * width)
        self.modulation_text = nn.Linear(width, 6 * width)
        self.attn = _heads(config)
        self.attn_text = _heads(config)
        self.out = nn.Linear(width, width)
        self.out_text = nn.Linear(width, width)
        self.ff = FeedForward(width)
        self.ff_text = FeedForward(width)

    def _modulated(self, x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
        return _modulated(x, shift, scale, self.attn)


class SingleBlock(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(width, 3 * width)
        self.attn = _heads(config)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)

    def __call__(self, x: mx.array, by: mx.array, rotation: rotary.Rotation) -> mx.array:
        """Run one block on ``x`` (B, text and image tokens, width), in float32 if the weights are in float16."""
        shift, scale, gate = mx.split(by, 3, axis=-1)
        normed = _modulated(x, shift, scale, self.attn)
        seen = headroom.less(rotary.attended([self.attn(normed)], rotation))
        hidden = headroom.less(nn.gelu_approx(self.proj_mlp(normed)))
        return x + gate * streams.on_both(self.proj_out, seen, hidden)

    def split(self) -> None:
        """See :meth:`Flux.split`."""
        streams.pass_bias_on(self.attn.to_v, self.proj_out)
        self.proj_out = streams.halved(self.proj_out, self.attn.to_q.weight.shape[0])


def _modulated(x: mx.array, shift: mx.array, scale: mx.array, heads: streams.Heads) -> mx.array:
    """Return ``x``, normed, scaled and shifted, in the type of the weights."""
    weight: mx.array = heads.norm_q.weight
    return modulated(x, shift, scale).astype(weight.dtype)


def _heads(config: FluxConfig) -> streams.Heads:
    return streams.Heads(config.width, config.attention_head_dim, bias=True, epsilon=EPSILON)


class Flux(nn.Module):
    """Predicts the latent's velocity from time, text tokens, pooled text and guidance."""

    config_type: ClassVar = FluxConfig
    repeated: ClassVar = ("doubles", "singles")

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image = nn.Linear(config.in_channels, width)
        self.text = nn.Linear(config.joint_attention_dim, width)
        self.time = Mlp(_FREQUENCIES, width)
        self.pooled = Mlp(config.pooled_projection_dim, width)
        if config.guidance_embeds:
            self.guidance = Mlp(_FREQUENCIES, width)
        self.doubles = [DoubleBlock(config) for _ in range(config.num_layers)]
        self.singles = [SingleBlock(config) for _ in range(config.num_single_layers)]
        self._doubles, self._singles = compiled(self.doubles), compiled(self.singles)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, config.out_channels or config.in_channels)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        for theirs, ours in _RENAMED:
            key = key.replace(theirs, ours)
        return key, value

    def modulation(self, timesteps: mx.array, pooled: mx.array, guidance: float) -> Modulation:
        """Compute the modulation of all steps.

        :param timesteps: (steps,), 0 … 1000.
        :param pooled: (B, pooled_projection_dim).
        :param guidance: 1 means none; ignored by a model that was not distilled with it.
        """
        time = self.time(sinusoids(timesteps).astype(pooled.dtype))  # (steps, width)
        if "guidance" in self:
            time = time + self.guidance(sinusoids(mx.array([1000.0 * guidance])).astype(pooled.dtype))
        steering = nn.silu(time[:, None] + self.pooled(pooled)[None])[:, :, None]  # (steps, B, 1, width)
        return Modulation(
            [raised(headroom.summed(block.modulation(steering)), 6, (1, 4)) for block in self.doubles],
            [raised(headroom.summed(block.modulation_text(steering)), 6, (1, 4)) for block in self.doubles],
            [raised(headroom.summed(block.modulation(steering)), 3, (1,)) for block in self.singles],
            raised(headroom.summed(self.modulation_out(steering)), 2, (0,)),
        )

    def split(self) -> None:
        """Change quantized layers so that a step reads as little as possible; saved layers are not changed.

        Output layers with two inputs become two layers, and biases of values are passed on.
        """
        for block in self.singles:
            block.split()

    def rotation(self, words: int, *pictures: Size) -> rotary.Rotation:
        """Compute every token's rotation, once before the loop.

        :param words: number of text tokens.
        :param pictures: latent pixels (height, width) of each picture, first the one to be made.
        """
        parts = [np.zeros((words, 3))]
        for i, (height, width) in enumerate(pictures):
            grid = np.indices((height // _PACK, width // _PACK)).reshape(2, -1)
            parts.append(np.stack([np.full(grid.shape[1], float(i > 0)), *grid], axis=1))
        places = np.concatenate(parts)
        rotation = by_axis(places, self.config.axes_dims_rope, _BASE)
        return rotary.for_blocks(rotation, self.config.rotated_heads, self.image.weight.dtype)

    def words(self, tokens: mx.array) -> mx.array:
        """Return the text as the blocks take it, the same in every step.

        :param tokens: (B, words, joint_attention_dim).
        """
        return headroom.summed(self.text(tokens))

    def __call__(
        self,
        latent: mx.array,
        text: mx.array,
        by: Modulation,
        rotation: rotary.Rotation,
        reference: mx.array | None = None,
        pace: Paced = unpaced,
    ) -> mx.array:
        """Evaluate the network once.

        :param latent: (B, height, width, C), even sides.
        :param text: from :meth:`words`.
        :param by: the step's modulation.
        :param rotation: for the text, ``latent`` and ``reference``.
        :param reference: for Kontext: a picture's latent, of any even size.
        :returns: the velocity, like ``latent``.
        """
        packed = pack(latent)
        count = packed.shape[1]
        if reference is not None:
            packed = mx.concatenate([packed, pack(reference)], axis=1)
        x = headroom.summed(self.image(packed))
        for block, image, words in zip(self._doubles, by.image, by.text, strict=True):
            x, text = block(x, text, image, words, rotation)
            pace(x, text)
        x = mx.concatenate([text, x], axis=1)
        for block, both in zip(self._singles, by.single, strict=True):
            x = block(x, both, rotation)
            pace(x)
        x = x[:, text.shape[1] : text.shape[1] + count]
        scale, shift = mx.split(by.out, 2, axis=-1)
        normed = modulated(x, shift, scale).astype(latent.dtype)
        return unpack(self.proj_out(normed), (latent.shape[1], latent.shape[2]))


def pack(latent: mx.array) -> mx.array:
    """Convert (B, height, width, C) to tokens of 2 x 2 pixels, (B, height / 2 x width / 2, C x 2 x 2)."""
    batch, height, width, channels = latent.shape
    x = latent.reshape(batch, height // _PACK, _PACK, width // _PACK, _PACK, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, channels * _PACK * _PACK)


def unpack(tokens: mx.array, size: Size) -> mx.array:
    """The inverse of :func:`pack` for a latent of ``size`` (height, width)."""
    batch, (height, width) = tokens.shape[0], size
    x = tokens.reshape(batch, height // _PACK, width // _PACK, -1, _PACK, _PACK)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height, width, -1)


_RENAMED = (
    ("time_text_embed.timestep_embedder.", "time."),
    ("time_text_embed.guidance_embedder.", "guidance."),
    ("time_text_embed.text_embedder.", "pooled."),
    ("context_embedder.", "text."),
    ("x_embedder.", "image."),
    ("single_transformer_blocks.", "singles."),
    ("transformer_blocks.", "doubles."),
    ("norm_out.linear.", "modulation_out."),
    ("norm1.linear.", "modulation."),
    ("norm1_context.linear.", "modulation_text."),
    ("norm.linear.", "modulation."),
    ("attn.add_q_proj.", "attn_text.to_q."),
    ("attn.add_k_proj.", "attn_text.to_k."),
    ("attn.add_v_proj.", "attn_text.to_v."),
    ("attn.norm_added_q.", "attn_text.norm_q."),
    ("attn.norm_added_k.", "attn_text.norm_k."),
    ("attn.to_add_out.", "out_text."),
    ("attn.to_out.0.", "out."),
    ("ff_context.", "ff_text."),
    (".net.0.proj.", ".proj_in."),
    (".net.2.", ".proj_out."),
)
