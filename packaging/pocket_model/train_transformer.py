"""Trains the transformer by rectified flow; goes on from its checkpoint by itself.

    python -m pocket_model.train_transformer [--work WORK] [--steps N]

Needs nothing but the pictures: the latents are linear in the pixels (``latents``) and the prompts' vectors are defined
by the pictures (``codes``). Once the text encoders are finished, half of the vectors are what they say. The network
sees ``(1 - t) x + t noise`` and predicts ``noise - x``. Every step has its own seed, so a resumed run is the run that
was never stopped.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch

from pocket_model.captions import Writer
from pocket_model.codes import code, looks
from pocket_model.latents import Latents, cached
from pocket_model.network import BLOCKS, OneForMany, build_transformer, velocity
from pocket_model.pictures import rendered
from pocket_model.places import with_work
from pocket_model.running import Checkpoints
from pocket_model.scenes import drawn, random_scene
from pocket_model.things import all_things
from pocket_model.train_autoencoder import to_tensor
from pocket_model.train_text import DONE, Text

SEED = 17
BATCH, STEPS = 32, 30_000
PEAK_RATE, WARM_UP, COOL_DOWN = 1e-3, 300, 0.3
TIME_SPREAD = 1.3  # of the logit of t
TIME_MEANS = ((0, 0.8), (1200, 1.4), (7_000, 0.9))
"""From which step on the logit of t has which mean. What a picture shows is decided at high noise, where it must be
read from the vector; that takes longest to learn."""
EMPTY_SHARE = 0.08
TEXT_SHARE = 0.5
CODE_NOISE = 0.1
"""Deviation of noise on the vectors, so that the text encoders need not be exact."""
EMA = 0.999


def rate_at(step: int, steps: int) -> float:
    """Warm-up, plateau, linear fall over the last part: a longer run shares all but the end of a shorter one."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP, max(0.01, (steps - step) / (COOL_DOWN * steps)))


class Batches:
    """Latents and vectors of random scenes."""

    def __init__(self, options: argparse.Namespace) -> None:
        things = all_things(options.work)
        self.names = [t.name for t in things]
        self.writer = Writer(options.work, things)
        self.text = Text(options.work) if (options.work / DONE).exists() else None
        self.pictures = np.array(rendered(options.work, things))  # in memory: 250 MB read at random
        self.looks = looks(options.work, self.pictures)
        rng = np.random.default_rng(SEED)
        sample = [drawn(random_scene(rng, self.names), self.pictures) for _ in range(600)]
        self.latents: Latents = cached(options.work, to_tensor(np.stack(sample)))

    def draw(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, channels, 32, 32] and [n, WIDTH]; some vectors are those of the empty prompt."""
        told = round(TEXT_SHARE * size) if self.text else 0
        captions = [self.writer.random(rng) for _ in range(told)]
        captions = [c for c in captions if c.scene is not None]
        told = len(captions)
        scenes = [c.scene for c in captions if c.scene is not None]
        scenes += [random_scene(rng, self.names) for _ in range(size - told)]
        x = self.latents.encode(to_tensor(np.stack([drawn(s, self.pictures) for s in scenes])))
        codes = torch.from_numpy(np.stack([code(s, self.looks) for s in scenes]))
        if self.text and told:
            codes[:told] = self.text([c.text for c in captions])
        codes = codes + CODE_NOISE * torch.randn_like(codes)
        empty = torch.from_numpy(rng.random(size) < EMPTY_SHARE)
        return x, torch.where(empty[:, None], 0.0, codes)


def main() -> None:
    """Trains, printing the loss; the moving average of the weights is in the checkpoint and in WORK/transformer."""
    parser = with_work(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    checkpoints = Checkpoints(options.work, "transformer")
    batches = Batches(options)
    model = build_transformer()
    average = copy.deepcopy(model).requires_grad_(False)
    for block in model.transformer_blocks:
        block.attn.set_processor(OneForMany())
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, PEAK_RATE, betas=(0.9, 0.98))
    first, state = 0, checkpoints.load()
    if state:
        first = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        if state["optimiser"]:  # none is shipped
            optimiser.load_state_dict(state["optimiser"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {BLOCKS} blocks, from step {first}")
    trained = [p for p in model.parameters() if p.requires_grad]
    averaged = [a for a, p in zip(average.parameters(), model.parameters(), strict=True) if p.requires_grad]

    def snapshot() -> dict[str, object]:
        average.save_pretrained(options.work / "transformer")
        parts = {"model": model, "average": average, "optimiser": optimiser}
        return {"step": done, **{name: part.state_dict() for name, part in parts.items()}}

    started, running, low, high = time.monotonic(), 0.0, 0.0, 0.0
    for step in range(first, options.steps):
        rng = np.random.default_rng((SEED, step))
        torch.manual_seed(SEED * 10**7 + step)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, options.steps)
        x, codes = batches.draw(rng, BATCH)
        noise = torch.randn_like(x)
        middle = [mean for start, mean in TIME_MEANS if step >= start][-1]
        t = torch.sigmoid(middle + TIME_SPREAD * torch.randn(BATCH))
        mixed = x + t.view(-1, 1, 1, 1) * (noise - x)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = velocity(model, mixed, codes, t)
        errors = (predicted.float() - (noise - x)).square().mean((1, 2, 3))
        loss = errors.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        done = step + 1
        with torch.no_grad():
            decay = min(EMA, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, [p.data for p in trained], 1 - decay)
            pull = 0.02 if step > first else 1.0
            told = (codes.abs().sum(1) > 0) & (t > 0.8)
            running += (loss.item() - running) * pull
            high += (errors[told].mean().item() - high) * pull if told.any() else 0.0
            low += (errors[t < 0.5].mean().item() - low) * pull if (t < 0.5).any() else 0.0
        if done % 25 == 0:
            pace = (done - first) * BATCH / (time.monotonic() - started)
            print(f"{done} {pace:.1f}/s  loss {running:.4f}  t > 0.8 {high:.4f}  t < 0.5 {low:.4f}", flush=True)
        checkpoints.after_step(snapshot, last=done == options.steps)


if __name__ == "__main__":
    main()
