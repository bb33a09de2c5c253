"""CLIP's text transformer (Radford et al., 2021, arXiv:2103.00020), as in transformers' CLIPTextModel.

Causal attention over a fixed number of tokens. Diffusion models use the hidden state before the last layer (one vector
per token), and the final state at the end token, "pooled", with or without a projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import mlx.core as mx
from mlx import nn

from locara_sidecar.engine.mlx_engine.activations import ACTIVATIONS
from locara_sidecar.engine.mlx_engine.compiling import compiled
from locara_sidecar.engine.mlx_engine.pace import Paced, unpaced

_LARGER = ("text_model.", "clip.")
"""Prefixes of names in older files, since an encoder may have been saved from a larger model.

Tensors with any other prefix belong to another model; transformers ignores them, and so does the torch engine.
"""


@dataclass(frozen=True)
class ClipConfig:
    """``config.json``, with transformers' defaults."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407


class ClipOutput(NamedTuple):
    """``penultimate`` (B, L, hidden): the state before the last layer, not normalised.

    ``pooled`` (B, hidden or projection): the normalised final state at the end token.
    """

    penultimate: mx.array
    pooled: mx.array


class Attention(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        q, k, v = self._split(self.q_proj(x)), self._split(self.k_proj(x)), self._split(self.v_proj(x))
        return self._joined(mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask="causal"))

    def at(self, x: mx.array, row: mx.array, place: mx.array) -> mx.array:
        """Compute attention for one token of each text: ``row`` (B, 1, width) of ``x``, at position ``place`` (B,)."""
        q, k, v = self._split(self.q_proj(row)), self._split(self.k_proj(x)), self._split(self.v_proj(x))
        sees = (mx.arange(x.shape[1]) <= place[:, None])[:, None, None]
        return self._joined(mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=sees))

    def _split(self, y: mx.array) -> mx.array:
        return y.reshape(*y.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    def _joined(self, y: mx.array) -> mx.array:
        batch, _, length, _ = y.shape
        return self.out_proj(y.transpose(0, 2, 1, 3).reshape(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self._act = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(self._act(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))

    def at(self, x: mx.array, place: mx.array) -> mx.array:
        """Compute the layer's output only at one token of each text, (B, 1, width)."""
        normed = self.layer_norm1(x)
        y = _rows(x, place) + self.self_attn.at(normed, _rows(normed, place), place)
        return y + self.mlp(self.layer_norm2(y))


def _rows(x: mx.array, place: mx.array) -> mx.array:
    """Select one token of each text: (B, L, width) to (B, 1, width)."""
    return mx.take_along_axis(x, mx.broadcast_to(place[:, None, None], (x.shape[0], 1, x.shape[2])), axis=1)


class ClipTextModel(nn.Module):
    """CLIP without a projection: FLUX's encoder, and the first one of SDXL."""

    config_type: ClassVar = ClipConfig

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = [Layer(config) for _ in range(config.num_hidden_layers)]
        self._compiled = compiled(self.layers[:-1])
        self._last = mx.compile(self.layers[-1].at, inputs=self.layers[-1])
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @staticmethod
    def sanitize(key: str, value: mx.array) -> tuple[str, mx.array]:
        while key.startswith(_LARGER):
            key = key.partition(".")[2]
        return key.removeprefix("embeddings.").removeprefix("encoder."), value

    def __call__(self, ids: mx.array, pace: Paced = unpaced) -> ClipOutput:
        """Encode ``ids`` (B, L) with L up to ``max_position_embeddings``."""
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        for layer in self._compiled:
            x = layer(x)
            pace(x)
        # only one token of the last layer's output is used
        last = self._last(x, self._end(ids))
        pace(last)
        return ClipOutput(x, self.final_layer_norm(last)[:, 0])

    def _end(self, ids: mx.array) -> mx.array:
        """Return the position of each text's first end token. Old files say 2 but mean the largest id."""
        if self.config.eos_token_id == 2:
            return mx.argmax(ids, axis=1)
        return mx.argmax(ids == self.config.eos_token_id, axis=1)


class ClipTextModelWithProjection(ClipTextModel):
    """CLIP with a projection of ``pooled``: SD3's encoders, and the second one of SDXL."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def __call__(self, ids: mx.array, pace: Paced = unpaced) -> ClipOutput:
        penultimate, pooled = super().__call__(ids, pace)
        return ClipOutput(penultimate, self.text_projection(pooled))
