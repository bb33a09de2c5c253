"""FLUX.2's transformer in small, with random weights, and such that numbers inside leave float16's range."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 24, "mlp_ratio": 3.0, "axes_dims_rope": [4, 4, 4, 4], "rope_theta": 2000, "eps": 1e-6,
    "guidance_embeds": False,
}  # fmt: skip
WIDE = ("text", "feed-forward", "sum")
"""What can leave the range."""


def made(**switches: Any) -> Any:
    """Return diffusers' module."""
    from diffusers import Flux2Transformer2DModel

    from support.parity import randomise

    return randomise(Flux2Transformer2DModel(**CONFIG | switches))


def boisterous(wide: str) -> Any:
    """Return one whose layer for the text exceeds 65,504, or whose products of gates and values do, or whose sums of
    branches.
    """
    import torch

    model = made()
    with torch.no_grad():
        if wide == "text":
            model.context_embedder.weight *= 6e4
        for block in model.transformer_blocks:
            for feed_forward in (block.ff, block.ff_context):
                if wide == "feed-forward":
                    feed_forward.linear_in.weight *= 300
                if wide == "sum":
                    feed_forward.linear_out.weight *= 60_000
        for block in model.single_transformer_blocks:
            hidden = block.attn.mlp_hidden_dim
            if wide == "feed-forward":
                block.attn.to_qkv_mlp_proj.weight[-2 * hidden :] *= 300
            if wide == "sum":
                block.attn.to_out.weight *= 60_000
    return model
