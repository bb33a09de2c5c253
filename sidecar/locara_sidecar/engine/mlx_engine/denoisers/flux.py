"""FLUX.1's transformer (Black Forest Labs, 2024): schnell, dev and Kontext.

First come *double* blocks, as in MMDiT: image and text tokens have separate weights and share one attention. Then come
*single* blocks over both as one sequence, text first, whose attention and feed-forward run in parallel on the same
input and share one output layer (Dehghani et al., 2023, arXiv:2302.05442). Time, pooled text and, in models distilled
with it, guidance control every block through modulation (see ``mmdit.py``), which is computed for all steps at once.

Positions are rotary embeddings of queries and keys (:mod:`.rotary`) on three axes: the first distinguishes the picture
from Kontext's reference pictures (0 and 1), the others are row and column. Text is at 0.

A token is 2 x 2 latent pixels, *packed*. Channels come last: latents are (B, height, width, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.denoisers import rotary
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import FeedForward, Mlp, sinusoids
from locara_sidecar.engine.mlx_engine.norms import EPSILON, modulated, raised
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.tensors.weights import making_modules

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


class Modulation(NamedTuple):
    """Shifts, scales (1 added) and gates of the double blocks' streams, the single blocks and the last norm.

    Each is (steps, B, 1, k x width), or after :meth:`at` (B, 1, k x width).
    """

    image: list[mx.array]
    text: list[mx.array]
    single: list[mx.array]
    out: mx.array

    def at(self, step: int) -> Modulation:
        """Return the modulation of one step, from 0."""
        image, text, single = ([m[step] for m in part] for part in (self.image, self.text, self.single))
        return Modulation(image, text, single, self.out[step])


class Halves(nn.Module):
    """A quantized linear layer on two concatenated inputs, as two layers.

    Each part has contiguous rows of its own, so that neither inputs nor weights need to be concatenated.

    :param before: the original layer.
    :param at: where the second input begins; a multiple of the quantization's group size.
    """

    def __init__(self, before: nn.QuantizedLinear, at: int) -> None:
        super().__init__()
        self.first = _columns(before, slice(0, at), bias="bias" in before)
        self.second = _columns(before, slice(at, None), bias=False)

    def __call__(self, first: mx.array, second: mx.array) -> mx.array:
        return self.first(first) + self.second(second)


class Heads(nn.Module):
    """Queries, keys and values of one stream, each (B, heads, tokens, size), normed but not yet rotated."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self._size = config.attention_head_dim
        self.to_q = nn.Linear(config.width, config.width)
        self.to_k = nn.Linear(config.width, config.width)
        self.to_v = nn.Linear(config.width, config.width)
        self.norm_q = nn.RMSNorm(config.attention_head_dim, eps=EPSILON)
        self.norm_k = nn.RMSNorm(config.attention_head_dim, eps=EPSILON)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        shape = (*x.shape[:2], -1, self._size)
        q = self.norm_q(self.to_q(x).reshape(shape))
        k = self.norm_k(self.to_k(x).reshape(shape))
        v = self.to_v(x).reshape(shape)
        return q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


class DoubleBlock(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(width, 6 * width)
        self.modulation_text = nn.Linear(width, 6 * width)
        self.attn = Heads(config)
        self.attn_text = Heads(config)
        self.out = nn.Linear(width, width)
        self.out_text = nn.Linear(width, width)
        self.ff = FeedForward(width)
        self.ff_text = FeedForward(width)

    def __call__(
        self, x: mx.array, text: mx.array, by: mx.array, by_text: mx.array, rotation: rotary.Rotation
    ) -> tuple[mx.array, mx.array]:
        """Run one block.

        :param x: (B, image tokens, width).
        :param text: (B, text tokens, width).
        :param rotation: for the text tokens, then the image tokens.
        """
        shift, scale, gate, shift_ff, scale_ff, gate_ff = mx.split(by, 6, axis=-1)
        shift_t, scale_t, gate_t, shift_ff_t, scale_ff_t, gate_ff_t = mx.split(by_text, 6, axis=-1)
        ours, theirs = self.attn(modulated(x, shift, scale)), self.attn_text(modulated(text, shift_t, scale_t))
        q, k, v = (mx.concatenate([b, a], axis=2) for a, b in zip(ours, theirs, strict=True))
        y = rotary.attended(q, k, v, rotation)
        words = text.shape[1]
        x = x + gate * self.out(y[:, words:])
        x = x + gate_ff * self.ff(modulated(x, shift_ff, scale_ff))
        text = text + gate_t * self.out_text(y[:, :words])
        text = text + gate_ff_t * self.ff_text(modulated(text, shift_ff_t, scale_ff_t))
        return x, text


class SingleBlock(nn.Module):
    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(width, 3 * width)
        self.attn = Heads(config)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)

    def __call__(self, x: mx.array, by: mx.array, rotation: rotary.Rotation) -> mx.array:
        """Run one block on ``x`` (B, text and image tokens, width)."""
        shift, scale, gate = mx.split(by, 3, axis=-1)
        normed = modulated(x, shift, scale)
        seen = rotary.attended(*self.attn(normed), rotation)
        return x + gate * self._out(seen, nn.gelu_approx(self.proj_mlp(normed)))

    def split(self) -> None:
        """Split a quantized output layer by branch, if their boundary is also one between groups."""
        width = self.attn.to_q.weight.shape[0]
        if isinstance(self.proj_out, nn.QuantizedLinear) and width % self.proj_out.group_size == 0:
            self.proj_out = Halves(self.proj_out, width)

    def _out(self, seen: mx.array, hidden: mx.array) -> mx.array:
        """Apply the output layer to both branches without copying them together, where possible."""
        out: Any = self.proj_out
        if isinstance(out, Halves):
            return out(seen, hidden)
        if isinstance(out, nn.QuantizedLinear):
            return out(mx.concatenate([seen, hidden], axis=-1))
        width = seen.shape[-1]
        y = mx.addmm(out.bias, seen, out.weight[:, :width].T)
        return mx.addmm(y, hidden, out.weight[:, width:].T)


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
            [raised(block.modulation(steering), 6, (1, 4)) for block in self.doubles],
            [raised(block.modulation_text(steering), 6, (1, 4)) for block in self.doubles],
            [raised(block.modulation(steering), 3, (1,)) for block in self.singles],
            raised(self.modulation_out(steering), 2, (0,)),
        )

    def split(self) -> None:
        """Split quantized layers so that a step reads as little as possible. Saved and loaded layers are not split."""
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
        return rotary.rotation_at(places, self.config.axes_dims_rope, _BASE)

    def __call__(
        self,
        latent: mx.array,
        tokens: mx.array,
        by: Modulation,
        rotation: rotary.Rotation,
        reference: mx.array | None = None,
        pace: Paced = unpaced,
    ) -> mx.array:
        """Evaluate the network once.

        :param latent: (B, height, width, C), even sides.
        :param tokens: (B, tokens, joint_attention_dim).
        :param by: the step's modulation.
        :param rotation: for ``tokens``, ``latent`` and ``reference``.
        :param reference: for Kontext: a picture's latent, of any even size.
        :returns: the velocity, like ``latent``.
        """
        packed = pack(latent)
        count = packed.shape[1]
        if reference is not None:
            packed = mx.concatenate([packed, pack(reference)], axis=1)
        x, text = self.image(packed), self.text(tokens)
        for block, image, words in zip(self._doubles, by.image, by.text, strict=True):
            x, text = block(x, text, image, words, rotation)
            pace(x, text)
        x = mx.concatenate([text, x], axis=1)
        for block, both in zip(self._singles, by.single, strict=True):
            x = block(x, both, rotation)
            pace(x)
        x = x[:, text.shape[1] : text.shape[1] + count]
        scale, shift = mx.split(by.out, 2, axis=-1)
        return unpack(self.proj_out(modulated(x, shift, scale)), (latent.shape[1], latent.shape[2]))


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


def _columns(layer: nn.QuantizedLinear, which: slice, *, bias: bool) -> nn.QuantizedLinear:
    """Return the part of a quantized layer that takes some of the inputs."""
    parameters: dict[str, mx.array] = {}
    for name, of in (("weight", 32 // layer.bits), ("scales", layer.group_size), ("biases", layer.group_size)):
        start, end = which.start // of, None if which.stop is None else which.stop // of
        parameters[name] = mx.contiguous(layer[name][:, start:end])
    if bias:
        parameters["bias"] = layer["bias"]
    size = parameters["scales"].shape[1] * layer.group_size
    with making_modules():
        made = nn.QuantizedLinear(size, parameters["weight"].shape[0], bias, layer.group_size, layer.bits)
    made.update(parameters)
    mx.eval(made.parameters())
    return made


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
