"""SD3's transformer, MMDiT (Esser et al., 2024, arXiv:2403.03206), and SD3.5 Medium's, MMDiT-X.

Two streams with separate weights, image patches and text tokens, share one attention. Time and pooled text control
every block through *modulation*: layer norms have no weights but get a shift and a scale from a linear layer, and each
branch is gated before it is added. MMDiT-X has, in its first blocks, a second attention over the patches alone.
Modulation depends on the step but not on the latent, so it is computed for all steps at once, before the loop.

In float16, sums of branches are wider (:mod:`.headroom`).

Channels come last: latents are (B, height, width, C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.activations import ACTIVATIONS
from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.denoisers import headroom, rotary, streams
from locara_sidecar.engine.mlx_engine.norms import EPSILON, modulated, raised
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.tensors.weights import channels_last

if TYPE_CHECKING:
    from locara_sidecar.engine.mlx_engine.rotation import ByAxis

_FREQUENCIES = 256


@dataclass(frozen=True)
class MmditConfig:
    """``config.json``, with diffusers' defaults."""

    patch_size: int = 2
    in_channels: int = 16
    out_channels: int | None = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: Literal["rms_norm", "layer_norm", "fp32_layer_norm"] | None = None

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def rotated_heads(self) -> tuple[int, int] | None:
        """The number of heads whose queries and keys our kernel can norm, and a head's size. (Nothing rotates them.)"""
        return (self.num_attention_heads, self.attention_head_dim) if self.qk_norm == "rms_norm" else None


class Modulation(NamedTuple):
    """Shifts, scales (1 added) and gates of each block's image and text stream, and of the last norm.

    Each is (steps, B, 1, k x width), or after :meth:`at` (B, 1, k x width); in float32 for float16.
    """

    image: list[mx.array]
    text: list[mx.array]
    out: mx.array

    def at(self, step: int) -> Modulation:
        """Return the modulation of one step, from 0."""
        return Modulation([m[step] for m in self.image], [m[step] for m in self.text], self.out[step])


class Heads(nn.Module):
    """Computes queries, keys and values of one stream; queries only if they are used."""

    def __init__(self, config: MmditConfig, *, queries: bool = True) -> None:
        super().__init__()
        self._size = config.attention_head_dim
        for name in ("q", "k", "v") if queries else ("k", "v"):
            self[f"to_{name}"] = nn.Linear(config.width, config.width)
        if config.qk_norm is not None:
            for name in ("q", "k") if queries else ("k",):
                self[f"norm_{name}"] = _head_norm(config.qk_norm, config.attention_head_dim)

    def __call__(self, name: str, x: mx.array) -> mx.array:
        """Project ``x`` to (B, heads, tokens, size), normed.

        :param name: ``q``, ``k`` or ``v``.
        """
        y = self[f"to_{name}"](x).reshape(*x.shape[:2], -1, self._size)
        if f"norm_{name}" in self:
            y = self[f"norm_{name}"](y)
        return y.transpose(0, 2, 1, 3)

    def stream(self, x: mx.array) -> rotary.Stream:
        """Project ``x`` to all three; what attention does first is left to it."""
        q, k, v = (self[f"to_{name}"](x) for name in ("q", "k", "v"))
        norms = rotary.Norms(self["norm_q"], self["norm_k"]) if "norm_q" in self else None
        return rotary.Stream(q, k, v, self._size, norms)


def _head_norm(kind: str, size: int) -> nn.Module:
    if kind == "rms_norm":
        return nn.RMSNorm(size, eps=EPSILON)
    return nn.LayerNorm(size, eps=EPSILON, affine=kind == "layer_norm")


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(4 * width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return headroom.restored(self.proj_out, headroom.less(nn.gelu_approx(self.proj_in(x))))


class Block(nn.Module):
    """A block of both streams, which are in float32 if the weights are in float16.

    :param dual: with the second attention over the patches.
    :param last: no block follows, so its text stream only provides keys and values.

    ``parts``, ``parts_text``: the number of parts of each modulation, and the indices of those that are scales.
    """

    def __init__(self, config: MmditConfig, *, dual: bool, last: bool) -> None:
        super().__init__()
        width = config.width
        self.parts = (9, (1, 4, 7)) if dual else (6, (1, 4))
        self.parts_text = (2, (0,)) if last else (6, (1, 4))
        self.modulation = nn.Linear(width, self.parts[0] * width)
        self.modulation_text = nn.Linear(width, self.parts_text[0] * width)
        self.attn = Heads(config)
        self.attn_text = Heads(config, queries=not last)
        self.out = nn.Linear(width, width)
        self.ff = FeedForward(width)
        if dual:
            self.attn2 = Heads(config)
            self.out2 = nn.Linear(width, width)
        if not last:
            self.out_text = nn.Linear(width, width)
            self.ff_text = FeedForward(width)

    def __call__(
        self, x: mx.array, text: mx.array, by: mx.array, by_text: mx.array, still: ByAxis | None = None
    ) -> tuple[mx.array, mx.array]:
        """Run the block on ``x`` (B, patches, width) and ``text`` (B, tokens, width), with their modulations.

        :param still: see :func:`.rotary.still`; of all tokens, the patches first.
        """
        shift, scale, gate, shift_ff, scale_ff, gate_ff, *second = mx.split(by, by.shape[-1] // x.shape[-1], axis=-1)
        branch, branch_text = self._join(self._modulated(x, shift, scale), text, by_text, still)
        patches = x + gate * branch
        if second:
            shift2, scale2, gate2 = second
            patches = patches + gate2 * self._second(self._modulated(x, shift2, scale2), still)
        patches = patches + gate_ff * self.ff(self._modulated(patches, shift_ff, scale_ff))
        if branch_text is None:
            return patches, text
        _, _, gate, shift_ff, scale_ff, gate_ff = mx.split(by_text, 6, axis=-1)
        text = text + gate * branch_text
        return patches, text + gate_ff * self.ff_text(self._modulated(text, shift_ff, scale_ff))

    def _join(
        self, x: mx.array, text: mx.array, by_text: mx.array, still: ByAxis | None
    ) -> tuple[mx.array, mx.array | None]:
        """Apply the shared attention to both streams. The text's result is None in the last block."""
        goes_on = "out_text" in self
        if goes_on:
            shift, scale = mx.split(by_text, 6, axis=-1)[:2]
        else:
            scale, shift = mx.split(by_text, 2, axis=-1)
        text = self._modulated(text, shift, scale)
        patches = x.shape[1]
        if goes_on:
            y = rotary.attended([self.attn.stream(x), self.attn_text.stream(text)], still)
            return _on_part(self.out, y[:, :patches]), _on_part(self.out_text, y[:, patches:])
        k, v = (mx.concatenate([self.attn(name, x), self.attn_text(name, text)], axis=2) for name in ("k", "v"))
        return _on_part(self.out, rotary.attention(self.attn("q", x), k, v)), None

    def _second(self, x: mx.array, still: ByAxis | None) -> mx.array:
        seen = rotary.attended([self.attn2.stream(x)], None if still is None else still.first(x.shape[1]))
        return headroom.restored(self.out2, headroom.less(seen))

    def _modulated(self, x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
        """Return ``x``, normed, scaled and shifted, in the type of the weights."""
        bias: mx.array = self.out.bias
        return modulated(x, shift, scale).astype(bias.dtype)


class Mlp(nn.Module):
    """Two linear layers with an activation between (SiLU by default), and optionally one after them."""

    def __init__(self, before: int, width: int, act: str = "silu", after: str | None = None) -> None:
        super().__init__()
        self._act, self._after = ACTIVATIONS[act], ACTIVATIONS["linear" if after is None else after]
        self.linear_1 = nn.Linear(before, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self._after(self.linear_2(self._act(self.linear_1(x))))


class Mmdit(nn.Module):
    """Predicts the latent's velocity from time, text tokens and pooled text."""

    config_type: ClassVar = MmditConfig
    repeated: ClassVar = ("blocks",)

    def __init__(self, config: MmditConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patches = nn.Conv2d(config.in_channels, width, patch, stride=patch)
        self.positions = mx.zeros((1, config.pos_embed_max_size**2, width))
        self.time = Mlp(_FREQUENCIES, width)
        self.pooled = Mlp(config.pooled_projection_dim, width)
        self.text = nn.Linear(config.joint_attention_dim, config.caption_projection_dim)
        self.blocks = [
            Block(config, dual=i in config.dual_attention_layers, last=i == config.num_layers - 1)
            for i in range(config.num_layers)
        ]
        self._compiled = compiled(self.blocks)
        self.modulation_out = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, patch * patch * (config.out_channels or config.in_channels))

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        for theirs, ours in _RENAMED:
            key = key.replace(theirs, ours)
        return key, channels_last(value)

    def modulation(self, timesteps: mx.array, pooled: mx.array) -> Modulation:
        """Compute the modulation of all steps.

        :param timesteps: (steps,), 0 … 1000.
        :param pooled: (B, pooled_projection_dim).
        """
        time = self.time(sinusoids(timesteps).astype(pooled.dtype))  # (steps, width)
        steering = nn.silu(time[:, None] + self.pooled(pooled)[None])[:, :, None]  # (steps, B, 1, width)
        return Modulation(
            [raised(headroom.summed(block.modulation(steering)), *block.parts) for block in self.blocks],
            [raised(headroom.summed(block.modulation_text(steering)), *block.parts_text) for block in self.blocks],
            raised(headroom.summed(self.modulation_out(steering)), 2, (0,)),
        )

    def words(self, tokens: mx.array) -> mx.array:
        """Return the text in the form that the blocks need, the same in every step.

        :param tokens: (B, words, joint_attention_dim).
        """
        return headroom.summed(self.text(tokens))

    def split(self) -> None:
        """Change quantized layers so that a step reads as little as possible; saved layers are not changed."""
        for block in self.blocks:
            if "attn2" in block:
                streams.pass_bias_on(block.attn2.to_v, block.out2)

    def __call__(self, latent: mx.array, text: mx.array, by: Modulation, pace: Paced = unpaced) -> mx.array:
        """Evaluate the network once.

        :param latent: (B, height, width, C), sides multiples of the patch size.
        :param text: from :meth:`words`.
        :param by: the step's modulation.
        :returns: the velocity, like ``latent``.
        """
        x = self.patches(latent)
        batch, height, width, _ = x.shape
        x = headroom.summed(x + self._positions(height, width)).reshape(batch, height * width, -1)
        still = rotary.still(x.shape[1] + text.shape[1], self.config.rotated_heads, latent.dtype)
        for block, image, words in zip(self._compiled, by.image, by.text, strict=True):
            x, text = block(x, text, image, words, still)
            pace(x, text)
        scale, shift = mx.split(by.out, 2, axis=-1)
        y = self.proj_out(modulated(x, shift, scale).astype(latent.dtype))
        patch = self.config.patch_size
        y = y.reshape(batch, height, width, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, height * patch, width * patch, -1)

    def keep_positions(self, largest: int) -> None:
        """Drop the position embeddings that no picture of up to ``largest`` patches per side needs.

        SD3.5 Medium comes with 450 MB of them.
        """
        side = self._side()
        largest = min(largest, side)
        # pictures use the centre of the grid, so the centre must not move
        largest += (side - largest) % 2
        grid = self._positions(largest, largest)
        self.positions = mx.contiguous(grid.reshape(1, largest * largest, -1))
        mx.eval(self.positions)

    def _positions(self, height: int, width: int) -> mx.array:
        """Return the centre (1, height, width, ·) of the square grid of position embeddings."""
        side = self._side()
        if max(height, width) > side:
            raise ValueError(f"{height} x {width} patches are more than the model's {side} x {side} positions")
        top, left = (side - height) // 2, (side - width) // 2
        grid = self.positions.reshape(1, side, side, -1)
        return grid[:, top : top + height, left : left + width]

    def _side(self) -> int:
        return math.isqrt(self.positions.shape[1])


def sinusoids(
    timesteps: mx.array, count: int = _FREQUENCIES, *, shift: int = 0, cosines_first: bool = True
) -> mx.array:
    """Encode time as (steps, count) cosines and sines with frequencies from 1 down to 1/10000, in float32.

    :param shift: 1 if the lowest frequency is 1/10000 itself, 0 if the series stops just before it.
    """
    half = count // 2
    frequencies = mx.exp(-math.log(10000.0) / (half - shift) * mx.arange(half, dtype=mx.float32))
    angles = timesteps.astype(mx.float32)[:, None] * frequencies[None]
    parts = [mx.cos(angles), mx.sin(angles)]
    return mx.concatenate(parts if cosines_first else parts[::-1], axis=-1)


def _on_part(layer: Any, part: mx.array) -> mx.array:
    """Apply a linear layer to some tokens of each picture, without copying them.

    For a product with one matrix, MLX first flattens a batch to rows, which copies a part of an array. With as many
    matrices as pictures, even if they are all the same, it does not.
    """
    if part.shape[0] == 1 or type(layer) is not nn.Linear or part.dtype == mx.float16:
        return headroom.restored(layer, headroom.less(part))
    weight = mx.broadcast_to(layer.weight.T, (part.shape[0], *layer.weight.T.shape))
    return mx.addmm(layer.bias, part, weight)


_RENAMED = (
    ("pos_embed.proj.", "patches."),
    ("pos_embed.pos_embed", "positions"),
    ("time_text_embed.timestep_embedder.", "time."),
    ("time_text_embed.text_embedder.", "pooled."),
    ("context_embedder.", "text."),
    ("transformer_blocks.", "blocks."),
    ("norm_out.linear.", "modulation_out."),
    ("norm1.linear.", "modulation."),
    ("norm1_context.linear.", "modulation_text."),
    ("attn.add_q_proj.", "attn_text.to_q."),
    ("attn.add_k_proj.", "attn_text.to_k."),
    ("attn.add_v_proj.", "attn_text.to_v."),
    ("attn.norm_added_q.", "attn_text.norm_q."),
    ("attn.norm_added_k.", "attn_text.norm_k."),
    ("attn.to_add_out.", "out_text."),
    ("attn.to_out.0.", "out."),
    ("attn2.to_out.0.", "out2."),
    ("ff_context.", "ff_text."),
    (".net.0.proj.", ".proj_in."),
    (".net.2.", ".proj_out."),
)
