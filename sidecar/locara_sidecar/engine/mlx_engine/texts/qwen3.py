"""Qwen3 (Qwen team, 2025, arXiv:2505.09388) as a text encoder: the hidden states between its layers, as in
transformers' Qwen3Model.

It is a language model, but image models read hidden states from lower layers only, so the layers above the highest of
these are neither loaded nor run. Attention is causal, several query heads share one head of keys and values, and a
token's position rotates the two halves of a head against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.activations import ACTIVATIONS
from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced
from locara_sidecar.machine.supported import FAMILIES

_LARGER = "model."
"""Prefix of all names in the files of the language model."""


@dataclass(frozen=True)
class Qwen3Config:
    """``config.json``, with transformers' defaults. ``rope_parameters`` is the current form of ``rope_theta``."""

    overflows_float16: ClassVar = True

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    head_dim: int = 128
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    rope_theta: float = 10_000.0
    rope_parameters: dict[str, Any] | None = field(default=None)

    @property
    def key_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def base(self) -> float:
        """The base of the rotation frequencies, which are its powers."""
        return float((self.rope_parameters or {}).get("rope_theta", self.rope_theta))


class Attention(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        size, bias = config.head_dim, config.attention_bias
        self._size, self._base = size, config.base
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, config.key_heads * size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, config.key_heads * size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * size, config.hidden_size, bias=bias)
        self.q_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        q, k, v = (self._split(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.q_norm(q), self.k_norm(k)  # before they are transposed: on Metal, a norm copies what is
        q, k, v = (y.transpose(0, 2, 1, 3) for y in (q, k, v))
        q, k = self._rotated(q), self._rotated(k)
        seen = "causal" if mask is None else mask
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._size**-0.5, mask=seen)
        return self.o_proj(y.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))

    def _split(self, y: mx.array) -> mx.array:
        return y.reshape(*y.shape[:2], -1, self._size)

    def _rotated(self, y: mx.array) -> mx.array:
        return mx.fast.rope(y, self._size, traditional=False, base=self._base, scale=1.0, offset=0)


class FeedForward(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self._act = ACTIVATIONS[config.hidden_act]
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self._act(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """``x`` (B, L, hidden); ``mask``: which positions each one attends to; None for all up to itself."""
        x = x + self.self_attn(self.input_layernorm(x), mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """Encodes token ids to the hidden states at :attr:`taps`.

    A subclass sets them: 0 is the embedding table's output, k that of layer k (from 1), and negative ones count from
    the end. The very last state, that after the last layer, is normalised, as in transformers.
    """

    config_type: ClassVar = Qwen3Config
    repeated: ClassVar = ("layers",)
    taps: ClassVar[tuple[int, ...]]

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        count = config.num_hidden_layers
        self._taken = [tap if tap >= 0 else count + 1 + tap for tap in self.taps]
        if any(not 0 <= tap <= count for tap in self._taken):
            raise ValueError(f"num_hidden_layers {count} are fewer than are needed")
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Layer(config) for _ in range(max(self._taken))]
        self._compiled = compiled(self.layers)
        if count in self._taken:
            self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        return key.removeprefix(_LARGER), value

    def __call__(self, ids: mx.array, words: int | None = None, pace: Paced = unpaced) -> list[mx.array]:
        """Return the states, each (B, L, hidden), in the order of :attr:`taps`.

        :param ids: (B, L).
        :param words: how many of the ids are text; the rest is padding, which no other token attends to.
        """
        mask = None if words is None else _seen(ids.shape[1], words)
        x = self.embed_tokens(ids)
        states = [x]
        for layer in self._compiled:
            x = layer(x, mask)
            pace(x)
            states.append(x)
        if self.config.num_hidden_layers in self._taken:
            states[-1] = self.norm(x)
        return [states[tap] for tap in self._taken]


class Qwen3Penultimate(Qwen3):
    """For Z-Image: the state before the last layer."""

    taps: ClassVar = FAMILIES["z-image"].taps


class Qwen3Thirds(Qwen3):
    """For FLUX.2 [klein]: the states after a quarter, a half and three quarters of Qwen3-4B's layers."""

    taps: ClassVar = FAMILIES["flux2"].taps


def _seen(length: int, words: int) -> mx.array:
    """Return whether the token of a row attends to that of a column, (1, 1, L, L)."""
    places = mx.arange(length)
    return ((places[None, :] <= places[:, None]) & (places[None, :] < words))[None, None]
