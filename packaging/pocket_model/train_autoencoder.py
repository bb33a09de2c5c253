"""Trains the autoencoder (diffusers' AutoencoderKL) to compute the linear latents and to undo them, and better.

    python -m pocket_model.train_autoencoder [--work WORK] [--steps N]

Encoder and decoder are trained side by side and never meet: the encoder learns to compute ``latents.Latents.encode``,
the decoder to turn those latents, slightly noisy, back into the picture. First on crops, which are cheaper and mostly
edges, then on whole pictures, whose flat parts the normalisation layers must get used to. One picture in twelve is held
out. Continues from its checkpoint by itself; writes ``WORK/autoencoder``.
"""

from __future__ import annotations

import copy
import math
import time
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from pocket_model.latents import BLOCK, CHANNELS, Latents, cached
from pocket_model.pictures import SIDE, rendered
from pocket_model.running import Checkpoints, follow, stage_options
from pocket_model.scenes import Scene, drawn, random_ground, random_scene
from pocket_model.things import STYLES, all_things

if TYPE_CHECKING:
    from pathlib import Path

SEED = 23
STEPS, WHOLE_FROM = 8000, 5500
CROP, CROP_BATCH, WHOLE_BATCH = 64, 12, 4
RATE, WARM_UP, COOL_DOWN = 2e-3, 150, 0.35
NOISE = 0.04
EMA = 0.998
LOG_VARIANCE = -12.0


def build_autoencoder() -> AutoencoderKL:
    """The untrained network, 0.42 M parameters; its latents need neither shift nor scale."""
    autoencoder: Any = AutoencoderKL  # diffusers says that it has one block
    return autoencoder(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def held_out(name: str, style: str) -> bool:
    """Whether the autoencoder never sees this picture."""
    return zlib.crc32(f"{name}, {style}".encode()) % 12 == 0


def held_out_pictures(names: list[str], pictures: np.ndarray, count: int = 128) -> Tensor:
    """[count, 3, 128, 128] in −1…1: pictures that the autoencoder never sees, on white and coloured grounds."""
    rng = np.random.default_rng(SEED + 1)
    pairs = [(i, s) for i, n in enumerate(names) for s in STYLES if held_out(n, s)]
    chosen = rng.permutation(len(pairs))[:count]
    scenes = [Scene(random_ground(rng), pairs[i][0], pairs[i][1]) for i in chosen]
    return to_tensor(np.stack([drawn(s, pictures) for s in scenes]))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """[n, h, w, 3] in 0…255 to [n, 3, h, w] float32 in −1…1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(x: Tensor, y: Tensor) -> float:
    """In dB, of pictures in −1…1, all together."""
    return 10 * math.log10(4 / float((x - y.clamp(-1, 1)).square().mean()))


@torch.no_grad()
def report(model: Any, latents: Latents, x: Tensor) -> str:
    """Held-out figures: the linear map's, the decoder's from exact latents, and the two networks' together."""
    z = latents.encode(x)
    decoded = torch.cat([model.decode(part).sample for part in z.split(16)])
    encoded = torch.cat([model.encode(part).latent_dist.mode() for part in x.split(16)])
    both = torch.cat([model.decode(part).sample for part in encoded.split(16)])
    return (
        f"linear {psnr(x, latents.decode(z)):.2f} dB  decoder {psnr(x, decoded):.2f} dB  "
        f"encoder and decoder {psnr(x, both):.2f} dB  latents' error {(encoded - z).square().mean().sqrt():.4f}"
    )


def loss_of(model: AutoencoderKL, latents: Latents, x: Tensor) -> tuple[Tensor, float]:
    """The loss of one batch and the decoder's mean square error in it."""
    z = latents.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = model.encoder(x).float().chunk(2, 1)
        y = model.decoder(z + NOISE * torch.randn_like(z)).float()
    error = y - x
    square = error.square().mean()
    encoder = (mean - z).square().mean() + 1e-3 * (log_variance - LOG_VARIANCE).square().mean()
    return 0.3 * error.abs().mean() + 3 * square + encoder, square.item()


def batch_of(rng: np.random.Generator, names: list[str], pictures: np.ndarray, whole: bool) -> Tensor:
    """Random scenes, crops of them unless ``whole``; never a picture held out."""
    made: list[np.ndarray] = []
    while len(made) < (WHOLE_BATCH if whole else CROP_BATCH):
        scene = random_scene(rng, names)
        if scene.thing is not None and scene.style and held_out(names[scene.thing], scene.style):
            continue
        picture = drawn(scene, pictures)
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        if not whole:
            top, left = rng.integers(0, (SIDE - CROP) // BLOCK + 1, 2) * BLOCK
            picture = picture[top : top + CROP, left : left + CROP]
        made.append(picture)
    return to_tensor(np.stack(made))


def rate_at(step: int, steps: int) -> float:
    return RATE * min(1.0, (step + 1) / WARM_UP, max(0.01, (steps - step) / (COOL_DOWN * steps)))


def main() -> None:
    """Trains, printing the error and now and then the held-out figures."""
    options = stage_options(__doc__, STEPS, SEED)
    work: Path = options.work
    checkpoints = Checkpoints(work, "autoencoder")
    things = all_things(work)
    names = [t.name for t in things]
    pictures = rendered(work, things)
    latents = cached(work)
    unseen = held_out_pictures(names, pictures)
    model = build_autoencoder()
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-4, betas=(0.9, 0.99))
    first, state = 0, checkpoints.load()
    if state:
        first = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])

    def snapshot() -> dict[str, object]:
        average.save_pretrained(work / "autoencoder")
        print(f"{done} {report(average, latents, unseen)}", flush=True)
        parts = {"model": model, "average": average, "optimiser": optimiser}
        return {"step": done, **{name: part.state_dict() for name, part in parts.items()}}

    started, running = time.monotonic(), 0.0
    for step in range(first, options.steps):
        rng = np.random.default_rng((SEED, step))
        torch.manual_seed(SEED * 10**7 + step)
        optimiser.param_groups[0]["lr"] = rate_at(step, options.steps)
        whole = step >= WHOLE_FROM * options.steps // STEPS
        loss, square = loss_of(model, latents, batch_of(rng, names, pictures, whole))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        done = step + 1
        with torch.no_grad():
            decay = min(EMA, (1 + step) / (10 + step))
            follow(average.parameters(), model.parameters(), 1 - decay)
        running += (square - running) * (0.02 if step > first else 1.0)
        if done % 100 == 0:
            pace = (done - first) / (time.monotonic() - started)
            print(f"{done} {pace:.2f} steps/s  in training {10 * math.log10(4 / running):.2f} dB", flush=True)
        checkpoints.after_step(snapshot, last=done == options.steps)


if __name__ == "__main__":
    main()
