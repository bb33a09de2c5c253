"""Trains the pocket autoencoder: 64 × 64 × 3 pixels to 16 × 16 × 16 latents and back.

    python -m pocket_model.train_autoencoder --work WORK

Writes ``WORK/autoencoder`` (diffusers layout, float32, the moving average of the weights). Two phases of fixed length:
32-pixel crops, which are four times cheaper and mostly edges; then, from the averaged weights and with a new optimiser,
whole pictures, whose flat parts the normalisation layers must get used to, at a rate that falls to nothing.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from pocket_model.drawings import draw, draw_anything, sample_scene

SEED = 1
PICTURES = 16_000  # of scenes, and as many again of anything
CROP_STEPS, CROP_BATCH, CROP_SIDE, CROP_RATE = 2500, 16, 32, 2e-3
CROP_HORIZON = 5000  # of the cosine along which the crops' rate falls
WHOLE_STEPS, WHOLE_BATCH, WHOLE_RATE = 1000, 8, 1e-3
WARM_UP = 100
KL_WEIGHT = 1e-4  # of the mean over latent elements
EDGE_WEIGHT = 4.0
EMA = 0.998


def build_autoencoder() -> AutoencoderKL:
    """The untrained network, about 0.25 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def to_tensor(pictures: np.ndarray) -> Tensor:
    """[n, h, w, 3] uint8 to [n, 3, h, w] float32 in −1…1."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def scene_pictures(count: int, seed: int, *, held_out: bool = False) -> np.ndarray:
    """[count, 64, 64, 3] uint8; every fifth shows two things."""
    rng = np.random.default_rng(seed)
    return np.stack([draw(sample_scene(rng, held_out=held_out, two=i % 5 == 4), rng) for i in range(count)])


def psnr(model: AutoencoderKL, pictures: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of decode(mean of encode) over all pictures together (one mean square error)."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(pictures), 32):
            x = to_tensor(pictures[start : start + 32])
            y = model.decode(model.encode(x).latent_dist.mode()).sample
            total += float(((y.clamp(-1, 1) - x) ** 2).mean((1, 2, 3)).sum())
    return 10 * math.log10(4 / (total / len(pictures)))


def loss_of(model: AutoencoderKL, x: Tensor) -> Tensor:
    """Absolute and squared error, heavier near edges, and a slight pull of the latents towards a unit normal."""
    mean, log_variance = model.encoder(x).chunk(2, 1)
    log_variance = log_variance.clamp(-12, 4)
    y = model.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
    across = F.pad((x[..., :, 1:] - x[..., :, :-1]).abs().amax(1, keepdim=True), (0, 1))
    down = F.pad((x[..., 1:, :] - x[..., :-1, :]).abs().amax(1, keepdim=True), (0, 0, 0, 1))
    edge = F.max_pool2d(torch.maximum(across, down), 3, 1, 1).clamp(max=1)
    error = (y - x).abs()
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return ((error + 2 * error**2) * (1 + EDGE_WEIGHT * edge)).mean() + KL_WEIGHT * kl


class Trainer:
    """One phase's optimiser and moving average, both starting from ``model``."""

    def __init__(self, model: AutoencoderKL, rate: float) -> None:
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-4, betas=(0.9, 0.99))
        self._done = 0

    def step(self, x: Tensor, rate: float) -> float:
        """One update on a batch; returns the loss."""
        self._optimiser.param_groups[0]["lr"] = rate * min(1, (self._done + 1) / WARM_UP)
        loss = loss_of(self.model, x)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        with torch.no_grad():
            decay = min(EMA, (1 + self._done) / (10 + self._done))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self._done += 1
        return loss.item()


def crops(pictures: np.ndarray, rng: np.random.Generator) -> Tensor:
    """A batch of crops [n, 3, 32, 32]."""
    batch = pictures[rng.integers(len(pictures), size=CROP_BATCH)]
    corners = rng.integers(0, 64 - CROP_SIDE + 1, (CROP_BATCH, 2))
    pairs = zip(batch, corners, strict=True)
    return to_tensor(np.stack([p[r : r + CROP_SIDE, c : c + CROP_SIDE] for p, (r, c) in pairs]))


def main() -> None:
    """Trains and saves; prints the held-out PSNR as it goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--finish", action="store_true", help="only the second phase, from WORK/autoencoder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    anything = np.stack([draw_anything(rng) for _ in range(PICTURES)])
    pictures = np.concatenate([scene_pictures(PICTURES, SEED), anything])
    unseen = scene_pictures(256, SEED + 1, held_out=True)
    folder = options.work / "autoencoder"
    started = time.monotonic()

    def report(step: int, loss: float, model: AutoencoderKL) -> None:
        seen = f"held-out PSNR {psnr(model, unseen):.2f} dB  anything {psnr(model, anything[:128]):.2f} dB"
        print(f"{step} {time.monotonic() - started:.0f} s  loss {loss:.4f}  {seen}", flush=True)
        model.save_pretrained(folder)

    if options.finish:
        model = AutoencoderKL.from_pretrained(folder).train()
    else:
        trainer = Trainer(build_autoencoder(), CROP_RATE)
        for step in range(CROP_STEPS):
            rate = CROP_RATE * 0.5 * (1 + math.cos(math.pi * step / CROP_HORIZON))
            loss = trainer.step(crops(pictures, rng), rate)
            if (step + 1) % 500 == 0:
                report(step + 1, loss, trainer.average)
        model = copy.deepcopy(trainer.average).requires_grad_(True)
    rng = np.random.default_rng(SEED + 10)
    torch.manual_seed(SEED + 10)
    trainer = Trainer(model, WHOLE_RATE)
    for step in range(WHOLE_STEPS):
        batch = to_tensor(pictures[rng.integers(len(pictures), size=WHOLE_BATCH)])
        loss = trainer.step(batch, WHOLE_RATE * (1 - step / WHOLE_STEPS))
        if (step + 1) % 250 == 0:
            report(CROP_STEPS + step + 1, loss, trainer.average)


if __name__ == "__main__":
    main()
