"""The transformer: SD3.5's, in diffusers' layout, with one context token in training instead of 33 equal ones.

The pooled vector contains everything that a prompt says. The context embedding's weights are zero, so every token of
the text sequence enters as the same learnt vector, whatever the text; equal tokens stay equal through all blocks, and n
equal tokens in an attention are one token whose logit is raised by log n. Training uses that: it computes one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid
from torch import Tensor, nn
from torch.nn import functional as F

from pocket_model.codes import WIDTH
from pocket_model.latents import CHANNELS

HEADS, HEAD_WIDTH, BLOCKS, PATCH = 4, 64, 5, 4
GRID = 16
"""Largest picture side in patches for which there are position embeddings."""
CONTEXT_LENGTH = 33
"""Tokens in the text sequence at inference: 32 of the CLIP models, one of the absent T5."""
TIMESTEPS = 1000


def build_transformer() -> SD3Transformer2DModel:
    """The untrained network. Modulations and output start at zero; diffusers leaves that to the trainer."""
    model = SD3Transformer2DModel(
        sample_size=32,
        patch_size=PATCH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=BLOCKS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        caption_projection_dim=HEADS * HEAD_WIDTH,
        pooled_projection_dim=WIDTH,
        pos_embed_max_size=GRID,
        dual_attention_layers=(),
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name == "proj_out" or ".norm1" in name or name.startswith("norm_out"):
                nn.init.zeros_(module.weight)
    nn.init.zeros_(model.context_embedder.weight)
    model.context_embedder.weight.requires_grad_(False)
    nn.init.normal_(model.context_embedder.bias, std=0.5)
    # The position table is learnt, and starts with a separate direction for each place: from waves alone the network
    # would first have to learn 64 places. It is saved with the weights, so every loader uses what was learnt.
    rows, columns = np.meshgrid(np.arange(GRID, dtype=np.float32), np.arange(GRID, dtype=np.float32), indexing="ij")
    grid = torch.from_numpy(np.stack([columns, rows])[:, None])
    table = get_2d_sincos_pos_embed_from_grid(HEADS * HEAD_WIDTH, grid, output_type="pt").float()[None]
    table = table + 0.5 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    del model.pos_embed.pos_embed  # the buffer
    model.pos_embed.register_parameter("pos_embed", nn.Parameter(table))
    return model


class OneForMany:
    """Joint attention in which the one context token counts as CONTEXT_LENGTH equal ones."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        n, length, _width = hidden_states.shape
        heads = attn.heads

        def split(x: Tensor, norm: nn.Module | None) -> Tensor:
            x = x.view(n, -1, heads, x.shape[-1] // heads).transpose(1, 2)
            return norm(x) if norm is not None else x

        q = split(attn.to_q(hidden_states), attn.norm_q)
        k = split(attn.to_k(hidden_states), attn.norm_k)
        v = split(attn.to_v(hidden_states), None)
        q2 = split(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)
        k2 = split(attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)
        v2 = split(attn.add_v_proj(encoder_hidden_states), None)
        bias = torch.zeros(length + 1, dtype=q.dtype)
        bias[-1] = math.log(CONTEXT_LENGTH)
        q, k, v = torch.cat([q, q2], 2), torch.cat([k, k2], 2), torch.cat([v, v2], 2)
        out = F.scaled_dot_product_attention(
            q, k, v.to(q.dtype), attn_mask=bias.to(q.dtype).expand(1, 1, length + 1, -1)
        )
        out = out.transpose(1, 2).reshape(n, length + 1, -1)
        image, context = out[:, :length], out[:, length:]
        image = attn.to_out[1](attn.to_out[0](image))
        return image, context if attn.context_pre_only else attn.to_add_out(context)


def velocity(model: SD3Transformer2DModel, x: Tensor, codes: Tensor, t: Tensor) -> Tensor:
    """The training call: noisy latents, codes [n, WIDTH] and times in 0…1 to the velocity, with OneForMany set."""
    context = torch.zeros(len(x), 1, WIDTH)
    return model(x, context, codes, t * TIMESTEPS).sample
