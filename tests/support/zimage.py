"""Z-Image's transformer in small, with random weights, and such that numbers inside leave float16's range."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "dim": 64, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 24,
    "in_channels": 4, "axes_dims": [8, 12, 12], "axes_lens": [1536, 512, 512],
}  # fmt: skip
WIDE = ("feed-forward", "attention", "sum")
"""What can leave the range."""


def made(**switches: Any) -> Any:
    """Return diffusers' module; its padding, which is initialized to zeros, has values that matter."""
    import torch
    from diffusers import ZImageTransformer2DModel

    from support.parity import randomise

    model = randomise(ZImageTransformer2DModel(**CONFIG | switches))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for token in (model.x_pad_token, model.cap_pad_token):
            token.copy_(torch.randn(token.shape, generator=generator))
    return model


def boisterous(wide: str) -> Any:
    """Return one in which products of gates and values in every feed-forward reach 1e5 and more, in which attention's
    output exceeds 65,504, or whose sum of all branches does although no single branch does.
    """
    import torch

    model = made()
    with torch.no_grad():
        for block in (*model.noise_refiner, *model.context_refiner, *model.layers):
            if wide == "feed-forward":
                block.feed_forward.w1.weight *= 150
                block.feed_forward.w3.weight *= 150
            elif wide == "attention":
                block.attention.to_out[0].weight *= 60_000
            else:
                for norm in (block.attention_norm2, block.ffn_norm2):
                    norm.weight.fill_(9_000.0)
                if hasattr(block, "adaLN_modulation"):
                    block.adaLN_modulation[0].bias += 3
    return model
