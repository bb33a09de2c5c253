"""The encoder of T5 (Raffel et al., 2020, arXiv:1910.10683) and T5 v1.1.

v1.1 has a gated feed-forward (Shazeer, 2020, arXiv:2002.05202). There are no position embeddings: attention adds a
learned bias that depends on the distance between two tokens, in buckets that widen with the distance. Scores are not
scaled by the head size. Nothing is masked: padding takes part, as in diffusers' pipelines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import mlx.core as mx
import numpy as np
from mlx import nn

from locara_sidecar.engine.mlx_engine.activations import ACTIVATIONS, Activation
from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class T5Config:
    """``config.json``, with transformers' defaults."""

    overflows_float16: ClassVar = True

    feed_forward_proj: str = "relu"
    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> Activation:
        """``gated-gelu`` has always meant the tanh approximation."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return ACTIVATIONS["gelu_new" if self.gated and name == "gelu" else name]


class Attention(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.heads = config.num_heads
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        batch, length, _ = x.shape

        def split(y: mx.array) -> mx.array:
            return y.reshape(batch, length, self.heads, -1).transpose(0, 2, 1, 3)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=bias)
        return self.o(y.transpose(0, 2, 1, 3).reshape(batch, length, -1))


class Block(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.attention = Attention(config)
        self.norm2 = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self._act = config.activation
        if config.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = x + self.attention(self.norm1(x), bias)
        y = self.norm2(x)
        if "wi" in self:
            return x + self.wo(self._act(self.wi(y)))
        return x + self.wo(self._act(self.wi_0(y)) * self.wi_1(y))


class T5Encoder(nn.Module):
    """Encodes token ids to one vector per token."""

    config_type: ClassVar = T5Config
    repeated: ClassVar = ("blocks",)

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.blocks = [Block(config) for _ in range(config.num_layers)]
        self._compiled = compiled(self.blocks)
        self.final_layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        key = key.removeprefix("transformer.")  # from an encoder saved as part of a larger model
        for theirs, ours in _RENAMED:
            key = key.replace(theirs, ours)
        return key, value

    def __call__(self, ids: mx.array, pace: Paced = unpaced) -> mx.array:
        """Encode ``ids`` (B, L) to (B, L, d_model)."""
        x = self.shared(ids)
        buckets = mx.array(relative_buckets(ids.shape[1], self.config))
        bias = self.relative_attention_bias(buckets).transpose(2, 0, 1)[None]  # (1, heads, L, L)
        for block in self._compiled:
            x = block(x, bias)
            pace(x)
        return self.final_layer_norm(x)


_RENAMED = (
    ("encoder.embed_tokens.", "shared."),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.", "relative_attention_bias."),
    ("encoder.block.", "blocks."),
    ("encoder.", ""),
    ("layer.0.SelfAttention.", "attention."),
    ("layer.0.layer_norm.", "norm1."),
    ("layer.1.layer_norm.", "norm2."),
    ("layer.1.DenseReluDense.", ""),
)


def relative_buckets(length: int, config: T5Config) -> NDArray[np.int32]:
    """Return the bucket of each (query, key) pair, (length, length).

    Half of the buckets are for keys after the query. In each half, the first half is exact, one bucket per distance,
    and the rest grow logarithmically up to the largest distance; everything farther shares the last one. Computed in
    float32, so that rounding at a bucket's edge matches transformers.
    """
    positions = np.arange(length)
    distance = positions[None, :] - positions[:, None]
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    far = np.abs(distance)
    spread = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact))
    spread = spread / np.float32(math.log(config.relative_attention_max_distance / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + spread.astype(np.int32), half - 1)
    return np.where(distance > 0, half, 0).astype(np.int32) + np.where(far < exact, far, logarithmic).astype(np.int32)
