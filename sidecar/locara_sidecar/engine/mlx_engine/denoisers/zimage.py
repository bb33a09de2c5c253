"""Z-Image's transformer (Tongyi-MAI, 2025, arXiv:2511.22699): one stream of picture and text tokens.

The latent's patches and the text's tokens are first *refined*, each by their own blocks, and then run through one stack
of blocks as one sequence, picture first. Time scales the input of every branch, and gates its output (through tanh)
before it is added. Refining the text does not depend on time, so it is done once per picture. A token's position is a
rotation (:mod:`.rotary`) on three axes: text counts along the first one from 1, the picture comes after it and has its
row and column on the others. Both are padded to a multiple of 32 with learned tokens, which take part in attention.

Activations exceed the range of float16 (:mod:`.headroom`): in the feed-forward, gate times value reaches 3e5, and its
output and the sum of all branches are larger still. The norm after a branch cancels the factor of its values.

The model predicts the change of the latent towards the picture; the result here is the velocity, which points to the
noise. Channels come last: latents are (B, height, width, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.denoisers import headroom, rotary
from locara_sidecar.engine.mlx_engine.denoisers.mmdit import sinusoids
from locara_sidecar.engine.mlx_engine.norms import EPSILON, raised
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.engine.mlx_engine.rotation import by_axis

_FREQUENCIES = 256
_TIME = 256
"""The maximum width of the time embedding that blocks get."""
_HIDDEN = 1024
_HEAD_EPSILON = 1e-5
_PATCH = 2
_MULTIPLE = 32


@dataclass(frozen=True)
class ZImageConfig:
    """``config.json``, with diffusers' defaults. ``n_kv_heads`` has no effect: each query head has its own key head."""

    all_patch_size: tuple[Literal[2], ...] = (2,)
    all_f_patch_size: tuple[Literal[1], ...] = (1,)
    in_channels: int = 16
    dim: int = 3840
    n_layers: int = 30
    n_refiner_layers: int = 2
    n_heads: int = 30
    norm_eps: float = 1e-5
    qk_norm: bool = True
    cap_feat_dim: int = 2560
    rope_theta: float = 256.0
    t_scale: float = 1000.0
    axes_dims: tuple[int, int, int] = (32, 48, 48)

    def __post_init__(self) -> None:
        if sum(self.axes_dims) * self.n_heads != self.dim or any(size % 2 for size in self.axes_dims):
            raise ValueError("axes_dims does not share out a head's pairs")

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward."""
        return int(self.dim / 3 * 8)

    @property
    def time(self) -> int:
        return min(self.dim, _TIME)

    @property
    def rotated_heads(self) -> tuple[int, int] | None:
        """The number of heads whose queries and keys are normed and rotated, and a head's size; None: not normed."""
        return (self.n_heads, self.dim // self.n_heads) if self.qk_norm else None


class Modulation(NamedTuple):
    """Scales (1 added) and gates (after tanh) of the blocks that depend on time, in order, and the last scale; each is
    (steps, 1, 1, k x width), or after :meth:`at` (1, 1, k x width).
    """

    blocks: list[mx.array]
    out: mx.array

    def at(self, step: int) -> Modulation:
        """Return the modulation of one step, from 0."""
        return Modulation([made[step] for made in self.blocks], self.out[step])


class Places(NamedTuple):
    """The rotations of the text's tokens, of the picture's, and of both as one sequence, picture first."""

    text: rotary.Rotation
    image: rotary.Rotation
    both: rotary.Rotation


class Attention(nn.Module):
    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self._size = config.dim // config.n_heads
        self.to_q = nn.Linear(config.dim, config.dim, bias=False)
        self.to_k = nn.Linear(config.dim, config.dim, bias=False)
        self.to_v = nn.Linear(config.dim, config.dim, bias=False)
        self.to_out = nn.Linear(config.dim, config.dim, bias=False)
        if config.qk_norm:
            self.norm_q = nn.RMSNorm(self._size, eps=_HEAD_EPSILON)
            self.norm_k = nn.RMSNorm(self._size, eps=_HEAD_EPSILON)

    def __call__(self, x: mx.array, rotation: rotary.Rotation) -> mx.array:
        """Return attention over ``x`` (B, tokens, dim); in float16 a 64th of it."""
        norms = rotary.Norms(self.norm_q, self.norm_k) if "norm_q" in self else None
        stream = rotary.Stream(self.to_q(x), self.to_k(x), self.to_v(x), self._size, norms)
        return self.to_out(headroom.less(rotary.attended([stream], rotation)))


class FeedForward(nn.Module):
    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden, bias=False)
        self.w2 = nn.Linear(config.hidden, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden, bias=False)

    def __call__(self, x: mx.array, norm: nn.RMSNorm) -> mx.array:
        """Return the normed output.

        :param norm: the norm that follows; it cancels the factor used in float16.
        """
        gates, values = nn.silu(self.w1(x)), self.w3(x)
        if x.dtype != mx.float16:
            return norm(self.w2(gates * values))
        return _normed(self.w2(gates * headroom.less(values)), norm)


class Block(nn.Module):
    """A transformer block.

    :param timed: whether it depends on the time.
    """

    def __init__(self, config: ZImageConfig, *, timed: bool) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm1 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention_norm2 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm1 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm2 = nn.RMSNorm(config.dim, eps=config.norm_eps)
        if timed:
            self.modulation = nn.Linear(config.time, 4 * config.dim)

    def __call__(self, x: mx.array, rotation: rotary.Rotation, by: mx.array | None = None) -> mx.array:
        """Run on ``x`` (B, tokens, dim), in float32 if the weights are in float16. ``by``: the step's modulation."""
        weight: mx.array = self.attention_norm1.weight
        normed, normed_ff = self.attention_norm1, self.ffn_norm1
        if by is None:
            x = x + _normed(self.attention(normed(x).astype(weight.dtype), rotation), self.attention_norm2)
            return x + self.feed_forward(normed_ff(x).astype(weight.dtype), self.ffn_norm2)
        scale, gate, scale_ff, gate_ff = mx.split(by, 4, axis=-1)
        seen = self.attention((normed(x) * scale).astype(weight.dtype), rotation)
        x = x + gate * _normed(seen, self.attention_norm2)
        return x + gate_ff * self.feed_forward((normed_ff(x) * scale_ff).astype(weight.dtype), self.ffn_norm2)


class ZImageTransformer(nn.Module):
    """Predicts the latent's velocity from time and text."""

    config_type: ClassVar = ZImageConfig
    repeated: ClassVar = ("noise_refiner", "context_refiner", "layers")

    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self.config = config
        patch = _PATCH**2 * config.in_channels
        self.image = nn.Linear(patch, config.dim)
        self.text_norm = nn.RMSNorm(config.cap_feat_dim, eps=config.norm_eps)
        self.text = nn.Linear(config.cap_feat_dim, config.dim)
        self.time_in = nn.Linear(_FREQUENCIES, _HIDDEN)
        self.time_out = nn.Linear(_HIDDEN, config.time)
        self.x_pad_token = mx.zeros((1, config.dim))
        self.cap_pad_token = mx.zeros((1, config.dim))
        self.noise_refiner = [Block(config, timed=True) for _ in range(config.n_refiner_layers)]
        self.context_refiner = [Block(config, timed=False) for _ in range(config.n_refiner_layers)]
        self.layers = [Block(config, timed=True) for _ in range(config.n_layers)]
        self._noise, self._context = compiled(self.noise_refiner), compiled(self.context_refiner)
        self._layers = compiled(self.layers)
        self.modulation_out = nn.Linear(config.time, config.dim)
        self.proj_out = nn.Linear(config.dim, patch)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        for theirs, ours in _RENAMED:
            key = key.replace(theirs, ours)
        return key, value

    def modulation(self, timesteps: mx.array) -> Modulation:
        """Compute the modulation of all steps.

        :param timesteps: (steps,), 1000 … 0, as in the scheduler.
        """
        times = (1000.0 - timesteps) / 1000.0 * self.config.t_scale
        known = sinusoids(times).astype(self.x_pad_token.dtype)
        time = self.time_out(nn.silu(self.time_in(known)))[:, None, None]  # (steps, 1, 1, time)
        timed: list[Any] = [*self.noise_refiner, *self.layers]
        return Modulation(
            [_gated(block.modulation(time)) for block in timed],
            raised(self.modulation_out(nn.silu(time)), 1, (0,)),
        )

    def places(self, words: int, height: int, width: int) -> Places:
        """Compute the rotations for ``words`` tokens of text and a picture of that many latent pixels."""
        filled = _filled(words)
        text = np.zeros((filled, 3))
        text[:, 0] = np.arange(1, filled + 1)
        rows, columns = height // _PATCH, width // _PATCH
        image = np.zeros((_filled(rows * columns), 3))  # padding is at position 0
        grid = np.indices((rows, columns)).reshape(2, -1)
        image[: grid.shape[1]] = np.stack([np.full(grid.shape[1], filled + 1), *grid], axis=1)
        sizes, base = self.config.axes_dims, self.config.rope_theta
        parts = (text, image, np.concatenate([image, text]))
        rotations = (by_axis(part, sizes, base, rounded=True) for part in parts)
        heads, dtype = self.config.rotated_heads, self.image.weight.dtype
        return Places(*(rotary.for_blocks(each, heads, dtype) for each in rotations))

    def refined(self, tokens: mx.array, places: Places, pace: Paced = unpaced) -> mx.array:
        """Return the refined text, the same in every step.

        :param tokens: (B, words, cap_feat_dim), of any floating-point type.
        """
        weight: mx.array = self.text_norm.weight
        text = _filled_up(self.text(self.text_norm(tokens).astype(weight.dtype)), self.cap_pad_token)
        text = headroom.summed(text)
        for block in self._context:
            text = block(text, places.text)
            pace(text)
        return text

    def __call__(
        self, latent: mx.array, text: mx.array, by: Modulation, places: Places, pace: Paced = unpaced
    ) -> mx.array:
        """Evaluate the network once.

        :param latent: (B, height, width, C), even sides.
        :param text: from :meth:`refined`.
        :param by: the step's modulation.
        :returns: the velocity, like ``latent``.
        """
        batch, height, width, channels = latent.shape
        rows, columns = height // _PATCH, width // _PATCH
        patches = latent.reshape(batch, rows, _PATCH, columns, _PATCH, channels).transpose(0, 1, 3, 2, 4, 5)
        x = self.image(patches.reshape(batch, rows * columns, -1))
        x = headroom.summed(_filled_up(x, self.x_pad_token))
        known = iter(by.blocks)
        for block in self._noise:
            x = block(x, places.image, next(known))
            pace(x)
        x = mx.concatenate([x, text], axis=1)
        for block in self._layers:
            x = block(x, places.both, next(known))
            pace(x)
        x = mx.fast.layer_norm(x[:, : rows * columns], None, None, EPSILON)
        out = self.proj_out((x * by.out).astype(latent.dtype))
        out = out.reshape(batch, rows, columns, _PATCH, _PATCH, channels).transpose(0, 1, 3, 2, 4, 5)
        return -out.reshape(latent.shape)


def _normed(x: mx.array, norm: nn.RMSNorm) -> mx.array:
    """Norm the output of a branch, which in float16 is a 64th of itself."""
    weight: mx.array = norm.weight
    return mx.fast.rms_norm(x, weight, norm.eps / headroom.LESS**2 if x.dtype == mx.float16 else norm.eps)


def _gated(made: mx.array) -> mx.array:
    """Convert a modulation to a block's scale, gate, scale and gate."""
    scale, gate, scale_ff, gate_ff = mx.split(made, 4, axis=-1)
    return mx.concatenate([1 + scale, mx.tanh(gate), 1 + scale_ff, mx.tanh(gate_ff)], axis=-1)


def _filled(count: int) -> int:
    return -(-count // _MULTIPLE) * _MULTIPLE


def _filled_up(x: mx.array, token: mx.array) -> mx.array:
    """Pad (B, tokens, dim) with ``token`` to the next multiple."""
    lacking = _filled(x.shape[1]) - x.shape[1]
    return mx.concatenate([x, mx.broadcast_to(token[None], (x.shape[0], lacking, x.shape[2]))], axis=1)


_RENAMED = (
    ("all_x_embedder.2-1.", "image."),
    ("all_final_layer.2-1.linear.", "proj_out."),
    ("all_final_layer.2-1.adaLN_modulation.1.", "modulation_out."),
    ("adaLN_modulation.0.", "modulation."),
    ("t_embedder.mlp.0.", "time_in."),
    ("t_embedder.mlp.2.", "time_out."),
    ("cap_embedder.0.", "text_norm."),
    ("cap_embedder.1.", "text."),
    ("attention.to_out.0.", "attention.to_out."),
)
