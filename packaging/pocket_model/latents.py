"""Defines the latents: the principal components of 4 × 4 pixels, which exist before any network does.

A latent is a linear function of its 4 × 4 pixels: the CHANNELS strongest principal components of the training pictures'
blocks, each divided by the square root of its deviation (which leaves the coarse ones larger, but not so much that fine
ones drown in the noise), all scaled to a mean square of 1. The autoencoder is trained to compute just these and to
undo them, so it and the transformer can be trained in any order, and encoding pictures needs no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS, BLOCK = 8, 4


@dataclass(frozen=True)
class Latents:
    """The linear map. ``forward`` [channels, 3, 4, 4], ``backward`` its pseudo-inverse, ``mean`` [3, 4, 4]."""

    forward: Tensor
    backward: Tensor
    mean: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] in −1…1 to [n, channels, h/4, w/4]."""
        offset = (self.forward * self.mean).sum((1, 2, 3))
        return F.conv2d(x, self.forward, -offset, stride=BLOCK)

    def decode(self, z: Tensor) -> Tensor:
        """The nearest picture that a linear map can make: [n, channels, h, w] to [n, 3, 4h, 4w]."""
        n, _, h, w = z.shape
        return F.conv_transpose2d(z, self.backward, stride=BLOCK) + self.mean.repeat(1, h, w).expand(n, -1, -1, -1)


def fitted(x: Tensor) -> Latents:
    """The map for pictures [n, 3, h, w] in −1…1."""
    c = x.shape[1]
    blocks = _blocks(x)
    mean = blocks.mean(0)
    blocks = blocks - mean
    values, vectors = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    values, vectors = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS].T
    strongest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * strongest.sign()  # not the sign of the sum, which is near 0 for a component that detects edges
    scale = values.pow(-0.25) / values.sqrt().mean().sqrt()  # deviation^(-1/2), then a mean square of 1
    shape = (CHANNELS, c, BLOCK, BLOCK)
    return Latents(
        (vectors * scale[:, None]).float().view(shape),
        (vectors / scale[:, None]).float().view(shape),
        mean.float().view(shape[1:]),
    )


def recovered(x: Tensor, z: Tensor) -> Latents:
    """The map that a trained autoencoder has learnt, from pictures ``x`` [n, 3, h, w] and their latents ``z``.

    Only the way back is regressed: pictures say nothing about forward directions that they do not have. Components are
    orthogonal, so each direction forward is that of the way back.
    """
    latents = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).double()
    ones = torch.ones(len(latents), 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(torch.cat([latents, ones], 1), _blocks(x)).solution.float()
    backward, mean = solution[:-1], solution[-1]
    forward = backward / backward.square().sum(1, keepdim=True)
    shape = (CHANNELS, x.shape[1], BLOCK, BLOCK)
    return Latents(forward.view(shape), backward.view(shape), mean.view(shape[1:]))


def _blocks(x: Tensor) -> Tensor:
    """Each picture's blocks of 4 × 4 pixels in rows, float64."""
    n, c, h, w = x.shape
    cut = x.view(n, c, h // BLOCK, BLOCK, w // BLOCK, BLOCK).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(-1, c * BLOCK**2).double()


def keep(work: Path, latents: Latents) -> None:
    """Write ``WORK/latents.pt``."""
    torch.save((latents.forward, latents.backward, latents.mean), work / "latents.new")
    (work / "latents.new").replace(work / "latents.pt")


def cached(work: Path, pictures: Tensor | None = None) -> Latents:
    """The map in ``WORK/latents.pt``, fitted to ``pictures`` if it is not there yet."""
    file = work / "latents.pt"
    if not file.exists():
        if pictures is None:
            raise SystemExit(f"{file} is missing: train_transformer makes it")
        keep(work, fitted(pictures))
    return Latents(*torch.load(file))
