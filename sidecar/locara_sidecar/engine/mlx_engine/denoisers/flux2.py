"""FLUX.2's transformer (Black Forest Labs, 2025), in [klein]'s form: without guidance as an input.

Like FLUX.1's (:mod:`.flux`), with double and then single blocks (:mod:`.streams`). What differs: all blocks of a kind
share their modulation, which depends on the time alone; no layer has a bias; feed-forwards are gated; and a single
block's first layer computes queries, keys, values and the feed-forward's input at once.

Positions are rotary embeddings (:mod:`.rotary`) on four axes: the picture is at 0 on the first, and each reference has
its own place, 10 apart; row and column; and the last counts the text's tokens. A token is one pixel of the packed
latent (2 x 2 of the autoencoder's).

In float16 the sums of branches may leave its range, and so may the products of gates and values: see
:mod:`.headroom`.

Channels come last: latents are (B, height, width, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.denoisers import headroom, rotary, streams
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import sinusoids
from locara_sidecar.engine.mlx_engine.norms import modulated, raised
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.rotation import by_axis

_FREQUENCIES = 256
_APART = 10

Size = tuple[int, int]


@dataclass(frozen=True)
class Flux2Config:
    """``config.json``, with diffusers' defaults."""

    patch_size: Literal[1] = 1
    in_channels: int = 128
    out_channels: int | None = None
    num_layers: int = 8
    num_single_layers: int = 48
    attention_head_dim: int = 128
    num_attention_heads: int = 48
    joint_attention_dim: int = 15360
    timestep_guidance_channels: Literal[256] = 256
    mlp_ratio: float = 3.0
    axes_dims_rope: tuple[int, int, int, int] = (32, 32, 32, 32)
    rope_theta: float = 2000.0
    eps: float = 1e-6

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

    @property
    def hidden(self) -> int:
        """Width inside a feed-forward."""
        return int(self.width * self.mlp_ratio)


class Modulation(NamedTuple):
    """Shifts, scales (1 added) and gates for all double blocks' streams, all single blocks and the last norm.

    Each is (steps, 1, 1, k x width), or after :meth:`at` (1, 1, k x width); in float32 for float16.
    """

    image: mx.array
    text: mx.array
    single: mx.array
    out: mx.array

    def at(self, step: int) -> Modulation:
        """Return the modulation of one step, from 0."""
        return Modulation(*(part[step] for part in self))


class FeedForward(nn.Module):
    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self._hidden = config.hidden
        self.linear_in = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.linear_out = nn.Linear(config.hidden, config.width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return headroom.restored(self.linear_out, _gated(*_apart(self.linear_in, x, [self._hidden] * 2)))


class DoubleBlock(streams.DoubleBlock):
    """Both streams are in float32 if the weights are in float16."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self._eps, width, size = config.eps, config.width, config.attention_head_dim
        self.attn = streams.Heads(width, size, bias=False, epsilon=config.eps)
        self.attn_text = streams.Heads(width, size, bias=False, epsilon=config.eps)
        self.out = nn.Linear(width, width, bias=False)
        self.out_text = nn.Linear(width, width, bias=False)
        self.ff = FeedForward(config)
        self.ff_text = FeedForward(config)

    def _modulated(self, x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
        weight: mx.array = self.attn.norm_q.weight
        return modulated(x, shift, scale, self._eps).astype(weight.dtype)


class SingleBlock(nn.Module):
    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self._eps, self._width, self._hidden = config.eps, config.width, config.hidden
        self.proj_in = nn.Linear(config.width, 3 * config.width + 2 * config.hidden, bias=False)
        self.proj_out = nn.Linear(config.width + config.hidden, config.width, bias=False)
        self.norm_q = nn.RMSNorm(config.attention_head_dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(config.attention_head_dim, eps=config.eps)

    def __call__(self, x: mx.array, by: mx.array, rotation: rotary.Rotation) -> mx.array:
        """Run one block on ``x`` (B, text and picture tokens, width), in float32 if the weights are in float16."""
        weight: mx.array = self.norm_q.weight
        shift, scale, gate = mx.split(by, 3, axis=-1)
        normed = modulated(x, shift, scale, self._eps).astype(weight.dtype)
        sizes = [self._width] * 3 + [self._hidden] * 2
        q, k, v, gates, values = _apart(self.proj_in, normed, sizes)
        stream = rotary.Stream(q, k, v, weight.shape[0], rotary.Norms(self.norm_q, self.norm_k))
        seen = headroom.less(rotary.attended([stream], rotation))
        return x + gate * streams.on_both(self.proj_out, seen, _gated(gates, values))

    def split(self) -> None:
        """See :meth:`Flux2Transformer.split`."""
        self.proj_out = streams.halved(self.proj_out, self._width)


class Time(nn.Module):
    """Embeds the time for all blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_FREQUENCIES, width, bias=False)
        self.linear_2 = nn.Linear(width, width, bias=False)

    def __call__(self, timesteps: mx.array) -> mx.array:
        weight: mx.array = self.linear_1.weight
        return self.linear_2(nn.silu(self.linear_1(sinusoids(timesteps).astype(weight.dtype))))


class Flux2Transformer(nn.Module):
    """Predicts the latent's velocity from time, text tokens and references."""

    config_type: ClassVar = Flux2Config
    repeated: ClassVar = ("doubles", "singles")

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image = nn.Linear(config.in_channels, width, bias=False)
        self.text = nn.Linear(config.joint_attention_dim, width, bias=False)
        self.time = Time(width)
        self.modulation_image = nn.Linear(width, 6 * width, bias=False)
        self.modulation_text = nn.Linear(width, 6 * width, bias=False)
        self.modulation_single = nn.Linear(width, 3 * width, bias=False)
        self.doubles = [DoubleBlock(config) for _ in range(config.num_layers)]
        self.singles = [SingleBlock(config) for _ in range(config.num_single_layers)]
        self._doubles, self._singles = compiled(self.doubles), compiled(self.singles)
        self.modulation_out = nn.Linear(width, 2 * width, bias=False)
        self.proj_out = nn.Linear(width, config.out_channels or config.in_channels, bias=False)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        renamed = _RENAMED_SINGLE if key.startswith("single_") else _RENAMED
        for theirs, ours in renamed:
            key = key.replace(theirs, ours)
        return key, value

    def split(self) -> None:
        """Split quantized output layers with two inputs. Saved and loaded layers are not split."""
        for block in self.singles:
            block.split()

    def modulation(self, timesteps: mx.array) -> Modulation:
        """Compute the modulation of all steps. :param timesteps: (steps,), 1000 … 0."""
        steering = nn.silu(self.time(timesteps))[:, None, None]  # (steps, 1, 1, width)
        return Modulation(
            raised(headroom.summed(self.modulation_image(steering)), 6, (1, 4)),
            raised(headroom.summed(self.modulation_text(steering)), 6, (1, 4)),
            raised(headroom.summed(self.modulation_single(steering)), 3, (1,)),
            raised(headroom.summed(self.modulation_out(steering)), 2, (0,)),
        )

    def rotation(self, words: int, *pictures: Size) -> rotary.Rotation:
        """Compute every token's rotation, once before the loop.

        :param words: number of text tokens.
        :param pictures: height and width of each picture in packed pixels, first the one to be made.
        """
        text = np.zeros((words, 4))
        text[:, 3] = np.arange(words)
        parts = [text]
        for i, size in enumerate(pictures):
            grid = np.indices(size, dtype=np.float64).reshape(2, -1)
            place = np.full(grid.shape[1], float(_APART * i))
            parts.append(np.stack([place, *grid, np.zeros(grid.shape[1])], axis=1))
        rotation = by_axis(np.concatenate(parts), self.config.axes_dims_rope, self.config.rope_theta)
        return rotary.for_blocks(rotation, self.config.rotated_heads, self.image.weight.dtype)

    def words(self, tokens: mx.array) -> mx.array:
        """Return the text in the form that the blocks need, the same in every step. ``tokens``: (B, words,
        joint_attention_dim).

        Qwen3's states are not normed, and a few of their numbers are very large.
        """
        weight: mx.array = self.text.weight
        if weight.dtype != mx.float16:
            return self.text(tokens.astype(weight.dtype))
        return headroom.restored(self.text, (tokens.astype(mx.float32) / headroom.LESS).astype(mx.float16))

    def pictures(self, references: list[mx.array]) -> mx.array | None:
        """Convert the references' packed latents, each (1, height, width, C), to the form that the blocks need, or
        None.
        """
        if not references:
            return None
        weight: mx.array = self.image.weight
        tokens = [latent.reshape(1, -1, latent.shape[-1]) for latent in references]
        return headroom.summed(self.image(mx.concatenate(tokens, axis=1).astype(weight.dtype)))

    def __call__(
        self,
        latent: mx.array,
        text: mx.array,
        by: Modulation,
        rotation: rotary.Rotation,
        references: mx.array | None = None,
        pace: Paced = unpaced,
    ) -> mx.array:
        """Evaluate the network once.

        :param latent: (B, height, width, C), packed.
        :param text: from :meth:`words`.
        :param by: the step's modulation.
        :param rotation: for the text, the latent and the references.
        :param references: from :meth:`pictures`.
        :returns: the velocity, like ``latent``.
        """
        x = headroom.summed(self.image(latent.reshape(latent.shape[0], -1, latent.shape[-1])))
        first, last = text.shape[1], text.shape[1] + x.shape[1]
        if references is not None:
            x = mx.concatenate([x, references], axis=1)
        for block in self._doubles:
            x, text = block(x, text, by.image, by.text, rotation)
            pace(x, text)
        x = mx.concatenate([text, x], axis=1)
        for block in self._singles:
            x = block(x, by.single, rotation)
            pace(x)
        scale, shift = mx.split(by.out, 2, axis=-1)
        out = modulated(x[:, first:last], shift, scale, self.config.eps).astype(latent.dtype)
        return self.proj_out(out).reshape(latent.shape)


def _apart(layer: Any, x: mx.array, sizes: list[int]) -> list[mx.array]:
    """Return a layer's output in parts of the given sizes, each computed with its own rows of the weights: a part of
    the rows is contiguous, while parts of one output array would have to be copied.
    """
    parts: list[mx.array] = []
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        if isinstance(layer, nn.QuantizedLinear):
            weights = layer["weight"][rows], layer["scales"][rows], layer["biases"][rows]
            parts.append(mx.quantized_matmul(x, *weights, group_size=layer.group_size, bits=layer.bits))
        else:
            parts.append(x @ layer.weight[rows].T)
        start += size
    return parts


def _gated(gates: mx.array, values: mx.array) -> mx.array:
    """Return gates times values; in float16, a 64th of that."""
    return nn.silu(gates) * headroom.less(values)


_RENAMED = (
    ("time_guidance_embed.timestep_embedder.", "time."),
    ("double_stream_modulation_img.linear.", "modulation_image."),
    ("double_stream_modulation_txt.linear.", "modulation_text."),
    ("norm_out.linear.", "modulation_out."),
    ("context_embedder.", "text."),
    ("x_embedder.", "image."),
    ("transformer_blocks.", "doubles."),
    ("attn.add_q_proj.", "attn_text.to_q."),
    ("attn.add_k_proj.", "attn_text.to_k."),
    ("attn.add_v_proj.", "attn_text.to_v."),
    ("attn.norm_added_q.", "attn_text.norm_q."),
    ("attn.norm_added_k.", "attn_text.norm_k."),
    ("attn.to_add_out.", "out_text."),
    ("attn.to_out.0.", "out."),
    ("ff_context.", "ff_text."),
)
_RENAMED_SINGLE = (
    ("single_stream_modulation.linear.", "modulation_single."),
    ("single_transformer_blocks.", "singles."),
    ("attn.to_qkv_mlp_proj.", "proj_in."),
    ("attn.to_out.", "proj_out."),
    ("attn.norm_", "norm_"),
)
