"""Convert between latents and pixels, with the autoencoder's own scaling, and in float32 if float16 would overflow."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Generator

MODULE = "diffusers.models.autoencoders.vae"
"""Where diffusers draws from the distribution that an encoder returns."""


def raw_latent(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """Convert a denoiser's latent to a raw latent, as the decoder takes it."""
    if not hasattr(vae.config, "scaling_factor"):
        return latent  # FLUX.2's latent leaves its loop raw
    mean, deviation = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and deviation is not None:  # per channel, as in diffusers' SDXL pipelines
        shape = (1, -1, 1, 1)
        mean, deviation = (torch.tensor(values).view(shape).to(latent) for values in (mean, deviation))
        return latent * deviation / vae.config.scaling_factor + mean
    return latent / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)


def decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """Decode a denoiser's latent (1, C, h, w) to pixels (1, 3, height, width), about -1 … 1."""
    with in_range(vae):
        pixels: torch.Tensor = vae.decode(raw_latent(vae, latent.to(vae.dtype)), return_dict=False)[0]
    return pixels


def leaves_range(vae: Any) -> bool:
    """Whether an autoencoder leaves float16's range: its configuration says so (SDXL's), or does not mention it
    (FLUX.2's)."""
    return bool(getattr(vae.config, "force_upcast", True))


@contextlib.contextmanager
def in_range(vae: Any) -> Generator[None]:
    """Within the block, run a float16 autoencoder in float32 if it needs it."""
    narrow = vae.dtype == torch.float16 and leaves_range(vae)
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)
