"""Trains the transformer by rectified flow; resumes from its checkpoint automatically.

    python -m pocket_model.train_transformer [--work WORK] [--steps N]

Needs nothing but the pictures: the latents are linear in the pixels (``latents``) and the prompts' vectors are defined
by the pictures (``codes``). Once the text encoders are finished, half of the vectors are their output. The network
sees ``(1 - t) x + t noise`` and predicts ``noise - x``. Every step has its own seed, so a resumed run equals one that
was never stopped.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pocket_model.captions import Writer
from pocket_model.codes import code, looks
from pocket_model.latents import Latents, cached
from pocket_model.network import BLOCKS, OneForMany, build_transformer, velocity
from pocket_model.pictures import SIDE, rendered
from pocket_model.running import Checkpoints, follow, stage_options
from pocket_model.scenes import Scene, drawn, random_scene
from pocket_model.things import STYLES, all_things
from pocket_model.train_autoencoder import to_tensor
from pocket_model.train_text import DONE, Text

if TYPE_CHECKING:
    import argparse

SEED = 17
BATCH, STEPS = 32, 30_000
PEAK_RATE, WARM_UP, COOL_DOWN = 1e-3, 300, 0.3
TIME_SPREAD = 1.3  # of the logit of t
TIME_MEANS = ((0, 0.8), (1200, 1.4), (7_000, 0.9))
"""The mean of the logit of t from each step on. At high noise the content of a picture is decided, which must be read
from the vector; that takes longest to learn."""
EMPTY_SHARE = 0.08
TEXT_SHARE = 0.5
CAPTION_SHARES = {"thing_share": 0.8, "style_share": 0.7}
"""More shapes and styles than people ask for: each of a thing's three pictures must be seen about equally often."""
MOST_WEIGHT = 8.0
"""The loss's weight of a small shape's square against the ground around it: a small shape is 6 % of its picture."""
PAIR_WEIGHT = 4.0
"""Weight of the error in what makes two styles of one thing different: it is small against all that they share."""
SIBLINGS = {"flat": "3d", "3d": "flat"}
SIBLING_SHARE = 0.75
"""How often a pair consists of the two styles with the same outline, which are the ones mistaken for each other."""
CODE_NOISE = 0.1
"""Deviation of noise on the vectors, so that the text encoders need not be exact."""
EMA = 0.999


def rate_at(step: int, steps: int, warm_from: int = 0) -> float:
    """Warm-up, plateau, linear fall over the last part: a longer run shares all but the end of a shorter one."""
    warm = (step - warm_from + 1) / WARM_UP
    return PEAK_RATE * min(1.0, warm, max(0.01, (steps - step) / (COOL_DOWN * steps)))


def loss_weights(scenes: list[Scene], side: int) -> torch.Tensor:
    """[n, 1, side, side], of mean one for each picture: a shape's own square counts as much as all around it."""
    weights = torch.ones(len(scenes), 1, side, side)
    middles = (torch.arange(side) + 0.5) * (SIDE / side)
    for row, scene in zip(weights, scenes, strict=True):
        if scene.shape is not None:
            (x, y), reach = scene.shape.centre, scene.shape.extent / 2 + SIDE / side
            own = ((middles - y).abs() < reach)[:, None] & ((middles - x).abs() < reach)[None]
            share = own.float().mean()
            row[0, own] = ((1 - share) / share).clamp(1, MOST_WEIGHT)
            row /= row.mean()
    return weights


def in_another_style(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same thing on the same ground in a style that is not the scene's; a shape has only one, and stays."""
    if scene.thing is None:
        return scene
    sibling = SIBLINGS.get(scene.style or "")
    if sibling and rng.random() < SIBLING_SHARE:
        return replace(scene, style=sibling)
    others = [style for style in STYLES if style != scene.style]
    return replace(scene, style=others[rng.integers(len(others))])


def pair_loss(errors: torch.Tensor, rows: int) -> torch.Tensor:
    """[n, ...] errors to one number: how much the difference between the last ``rows`` and the ``rows`` before them
    deviates from the true one. Both of a pair saw the same noise, so what is left is the difference of their styles.
    """
    first, second = errors[-2 * rows : -rows], errors[-rows:]
    return (first - second).square().mean()


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

    def draw(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[n, channels, 32, 32], [n, WIDTH] and the loss's weights; some vectors are those of the empty prompt.

        The last quarter is the quarter before it in other styles, never with the vectors of the empty prompt.
        """
        told = round(TEXT_SHARE * size) if self.text else 0
        captions = [self.writer.random(rng, **CAPTION_SHARES) for _ in range(told)]
        captions = [c for c in captions if c.scene is not None]
        told = len(captions)
        scenes = [c.scene for c in captions if c.scene is not None]
        paired = size // 4
        scenes += [random_scene(rng, self.names) for _ in range(size - told - paired)]
        scenes += [in_another_style(scene, rng) for scene in scenes[-paired:]]
        x = self.latents.encode(to_tensor(np.stack([drawn(s, self.pictures) for s in scenes])))
        codes = torch.from_numpy(np.stack([code(s, self.looks) for s in scenes]))
        if self.text and told:
            codes[:told] = self.text([c.text for c in captions])
        codes = codes + CODE_NOISE * torch.randn_like(codes)
        empty = torch.from_numpy(rng.random(size) < EMPTY_SHARE)
        empty[-2 * paired :] = False
        return x, torch.where(empty[:, None], 0.0, codes), loss_weights(scenes, x.shape[-1])


def main() -> None:
    """Trains, printing the loss; the moving average of the weights is in the checkpoint and in WORK/transformer."""
    options = stage_options(__doc__, STEPS, SEED)
    checkpoints = Checkpoints(options.work, "transformer")
    batches = Batches(options)
    model = build_transformer()
    average = copy.deepcopy(model).requires_grad_(False)
    blocks: Any = model.transformer_blocks
    for block in blocks:
        block.attn.set_processor(OneForMany())
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, PEAK_RATE, betas=(0.9, 0.98))
    first, warm_from, state = 0, 0, checkpoints.load()
    if state:
        first = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        if state["optimiser"]:  # it does not ship
            optimiser.load_state_dict(state["optimiser"])
        else:
            warm_from = first
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
            group["lr"] = rate_at(step, options.steps, warm_from)
        x, codes, weights = batches.draw(rng, BATCH)
        noise, paired = torch.randn_like(x), BATCH // 4
        noise[-paired:] = noise[-2 * paired : -paired]
        middle = [mean for start, mean in TIME_MEANS if step >= start][-1]
        t = torch.sigmoid(middle + TIME_SPREAD * torch.randn(BATCH))
        t[-paired:] = t[-2 * paired : -paired]
        mixed = x + t.view(-1, 1, 1, 1) * (noise - x)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = velocity(model, mixed, codes, t)
        wrong = predicted.float() - (noise - x)
        errors = (weights * wrong.square()).mean((1, 2, 3))
        loss = errors.mean() + PAIR_WEIGHT * paired / BATCH * pair_loss(wrong, paired)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        done = step + 1
        with torch.no_grad():
            decay = min(EMA, (1 + step) / (10 + step))
            follow(averaged, trained, 1 - decay)
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
