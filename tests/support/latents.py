"""Latents made by a model's own autoencoder, on either engine."""

from __future__ import annotations

from typing import Any


def encoded(engine: str, vae: Any, picture: Any) -> Any:
    """Encode a picture (3, h, w) in -1 … 1 as the transformer's latent, in the engine's own arrays."""
    if engine == "torch":
        import torch

        with torch.no_grad():
            raw = vae.encode(torch.from_numpy(picture)[None].to(vae.device)).latent_dist.mode()
        if not hasattr(vae.config, "scaling_factor"):  # FLUX.2's, outside its loop
            return raw
        return (raw - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    import mlx.core as mx

    return vae.from_raw(vae.encode(mx.array(picture.transpose(1, 2, 0)[None])).mean)
