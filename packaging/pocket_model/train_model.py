"""Trains the pocket transformer on cached latents, with the text encoders frozen.

    python -m pocket_model.train_model --work WORK [--resume]
    python -m pocket_model.unpack FOLDER --work WORK && python -m pocket_model.train_model --work WORK --resume

The second line goes on from a shipped model, whose optimiser's state is not kept: the rate warms up anew.
Needs ``WORK/autoencoder``, ``WORK/tokenizer``, ``WORK/text_encoder`` and ``WORK/text_encoder_2``; writes
``WORK/transformer`` (the moving average of the weights) and ``WORK/checkpoint.pt``. Rectified flow as in SD3: the
network sees ``(1 - t) x + t noise`` and predicts ``noise - x``. The rate warms up, stays, and falls linearly over the
last part, so a longer run shares all but the end of a shorter one; every step has its own seed, so a resumed run is the
run that was never stopped.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, SD3Transformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed_from_grid
from torch import Tensor, multiprocessing
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from pocket_model.captions import Asked, Caption, random_caption, write
from pocket_model.drawings import CELL_CENTRES, CELLS, SIZES, Scene, draw, sample_scene
from pocket_model.judge import Score, mark
from pocket_model.train_autoencoder import to_tensor
from pocket_model.train_text import tokenise

SEED = 4
PICTURES, TWO_EVERY = 20_000, 8
STEPS, BATCH = 8000, 32
WORKERS = 2
"""Processes of one thread each, sharing every batch; on a busy machine two threads wait for each other too much."""
PEAK_RATE, WARM_UP, COOL_DOWN = 1.2e-3, 200, 0.25
EMPTY_SHARE = 0.1
EARLY_STEPS = 1200
"""The first steps learn the grounds from everything evenly; then the error is focused, see below."""
TIME_SPREAD = 1.2  # of the logit of t
TIME_MEANS = ((0, 0.5), (1200, 0.8), (2800, 1.7), (4600, 0.9), (5300, 1.6), (6600, 0.9), (8000, 1.5), (10500, 0.9))
"""From which step on the logit of t has which mean. What a flat picture shows is decided at high noise: below it the
network can see the shape and need not read it from the text. The last part sees to the edges again."""
COMPLETE_SHARE, LAST_COMPLETE_SHARE = 0.5, 0.25
"""Share of captions, after the early steps, that say everything; the others are as random_caption has them."""
STILL_STEPS, STILL_PICTURES = 2400, 8000
"""From this step on only drawings without jitter of place and size: a shape is then one thing to learn, not many."""
VAGUE_STEPS = 5300
"""From this step on captions are vague more often, and only complete ones focus the error (see next)."""
FOCUS = 5.0
"""How much more the later error counts where the thing is to stand. The place follows from the scene's attributes, not
from the drawing, so that for a complete caption this changes what is learnt first and not what is learnt."""
EMA = 0.999
EXAM = 24
HEADS, HEAD_WIDTH, BLOCKS = 4, 32, 6
GRID = 24
"""Largest picture side in patches for which there are position embeddings."""
TIMESTEPS = 1000


def build_transformer(text_width: int) -> SD3Transformer2DModel:
    """The untrained MMDiT-X. Modulations and the output start at zero; diffusers leaves that to the trainer."""
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=BLOCKS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=text_width,
        caption_projection_dim=HEADS * HEAD_WIDTH,
        pooled_projection_dim=text_width,
        pos_embed_max_size=GRID,
        dual_attention_layers=tuple(range(BLOCKS // 2)),
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
            if name == "proj_out" or ".norm1" in name or name.startswith("norm_out"):
                torch.nn.init.zeros_(module.weight)
    # One unit per patch. diffusers would squeeze the grid to sample_size, leaving neighbours a third of a unit apart,
    # too alike to tell; the buffer is saved with the weights, so what is set here is what every loader uses.
    rows, columns = np.meshgrid(np.arange(GRID, dtype=np.float32), np.arange(GRID, dtype=np.float32), indexing="ij")
    grid = torch.from_numpy(np.stack([columns, rows])[:, None])
    table = get_2d_sincos_pos_embed_from_grid(HEADS * HEAD_WIDTH, grid, output_type="pt")
    model.pos_embed.pos_embed.copy_(table.float()[None])
    return model


class Text:
    """The frozen text side, as diffusers' SD3 pipeline runs it with one T5 token of zeros (max_sequence_length=1)."""

    def __init__(self, work: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        folders = ("text_encoder", "text_encoder_2")
        self.encoders = [
            CLIPTextModelWithProjection.from_pretrained(work / f).eval().requires_grad_(False) for f in folders
        ]
        self.width = sum(e.config.projection_dim for e in self.encoders)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """The sequence [n, 33, width] and the pooled vector [n, width]."""
        ids = tokenise(self.tokenizer, texts)
        outputs = [e(ids, output_hidden_states=True) for e in self.encoders]
        sequence = torch.cat([o.hidden_states[-2] for o in outputs], -1)
        sequence = torch.cat([sequence, torch.zeros(len(texts), 1, self.width)], 1)
        return sequence, torch.cat([o.text_embeds for o in outputs], -1)


def encoded(work: Path, scenes: list[Scene], rng: np.random.Generator, jitter: float) -> Tensor:
    """Unscaled latents [n, 16, 16, 16] of drawings of the scenes."""
    vae = AutoencoderKL.from_pretrained(work / "autoencoder").eval()
    chunks = []
    with torch.no_grad():
        for start in range(0, len(scenes), 50):
            batch = to_tensor(np.stack([draw(s, rng, jitter=jitter) for s in scenes[start : start + 50]]))
            chunks.append(vae.encode(batch).latent_dist.mode())
    return torch.cat(chunks)


def cached_latents(work: Path) -> tuple[list[Scene], Tensor, Tensor, float, float]:
    """Training scenes, their scaled latents [n, 16, 16, 16] in float16 with and (of the first only) without jitter, and
    the shift and the scale used."""
    rng = np.random.default_rng(SEED)
    scenes = [sample_scene(rng, two=i % TWO_EVERY == 0) for i in range(PICTURES)]
    file, still = work / "latents.pt", work / "latents_still.pt"
    if not file.exists():
        latents = encoded(work, scenes, rng, 1.0)
        if not (work / "scale.txt").exists():
            # Rounded to what the shipped configuration will state.
            shift, scale = round(float(latents.mean()), 4), round(1 / float(latents.std()), 4)
            (work / "scale.txt").write_text(f"{shift} {scale}\n")
        shift, scale = map(float, (work / "scale.txt").read_text().split())
        torch.save(((latents - shift) * scale).half(), file)
    shift, scale = map(float, (work / "scale.txt").read_text().split())
    if not still.exists():
        latents = encoded(work, scenes[:STILL_PICTURES], np.random.default_rng(SEED + 1), 0.0)
        torch.save(((latents - shift) * scale).half(), still)
    return scenes, torch.load(file, mmap=True), torch.load(still, mmap=True), shift, scale


def focus(scenes: list[Scene]) -> Tensor:
    """Weight of each latent's error, [n, 1, 16, 16] with mean 1 a picture: heavier in and just around the things."""
    weights = torch.ones(len(scenes), 1, 16, 16)
    for weight, scene in zip(weights, scenes, strict=True):
        for thing in scene.things:
            reach = SIZES[thing.size] / 2 + 3.0
            row, column = divmod(CELLS.index(thing.cell), 3)
            top, left = (max(0, round((CELL_CENTRES[i] - reach) / 4)) for i in (row, column))
            bottom, right = (min(16, round((CELL_CENTRES[i] + reach) / 4)) for i in (row, column))
            weight[0, top:bottom, left:right] = 1 + FOCUS
    return weights / weights.mean((1, 2, 3), keepdim=True)


def caption_for(scene: Scene, rng: np.random.Generator, step: int) -> Caption:
    """What the network is told of a scene at one step."""
    if rng.random() < EMPTY_SHARE:
        return Caption("", None, (Asked(),))
    share = COMPLETE_SHARE if step < VAGUE_STEPS else LAST_COMPLETE_SHARE
    if step >= EARLY_STEPS and rng.random() < share:
        return write(scene, rng)
    return random_caption(scene, rng)


def error_weights(scenes: list[Scene], captions: list[Caption], step: int) -> Tensor:
    """Weight of each latent's error, [n, 1, 16, 16]."""
    if step < EARLY_STEPS:
        return torch.ones(len(scenes), 1, 16, 16)
    weights = focus(scenes)
    if step >= VAGUE_STEPS:
        unplaced = torch.tensor([not all(t.cell and t.size for t in c.things) for c in captions])
        weights[unplaced] = 1
    return weights


def rate_at(step: int, steps: int, fresh: int = 0) -> float:
    """Learning rate: warm-up, plateau, linear fall.

    :param fresh: the step at which the optimiser knew nothing yet.
    """
    return PEAK_RATE * min(1.0, (step - fresh + 1) / WARM_UP, max(0.01, (steps - step) / (COOL_DOWN * steps)))


@torch.no_grad()
def sample(
    model: SD3Transformer2DModel, text: Text, texts: list[str], noise: Tensor, steps: int, guidance: float
) -> Tensor:
    """Scaled latents by Euler steps along even times with classifier-free guidance."""
    sequence, pooled = text([*[""] * len(texts), *texts])
    x = noise
    times = torch.linspace(1, 0, steps + 1)
    for now, after in itertools.pairwise(times):
        t = (now * TIMESTEPS).expand(2 * len(x))
        without, given = model(torch.cat([x, x]), sequence, pooled, t).sample.chunk(2)
        x = x + (after - now) * (without + guidance * (given - without))
    return x


def exam(count: int, seed: int) -> list[Caption]:
    """Complete single-thing captions of held-out pairs in held-out wordings."""
    rng = np.random.default_rng(seed)
    return [write(sample_scene(rng, held_out=True), rng, held_out=True) for _ in range(count)]


def average_gradients(model: SD3Transformer2DModel) -> None:
    """Makes every worker's gradients the mean of all."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def examine(model: SD3Transformer2DModel, text: Text, vae: AutoencoderKL, shift: float, scale: float) -> Score:
    """Marks of a few held-out pictures, from the same noise every time."""
    questions = exam(EXAM, SEED + 100)
    noise = torch.randn(len(questions), 16, 16, 16, generator=torch.Generator().manual_seed(1))
    x = sample(model, text, [c.text for c in questions], noise, 12, 3.0)
    with torch.no_grad():
        rgb = vae.decode(x / scale + shift).sample
    pictures = ((rgb.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    score = Score.zero()
    for caption, picture in zip(questions, pictures, strict=True):
        mark(score, caption, picture)
    return score


def train(worker: int, options: argparse.Namespace) -> None:
    """One worker's whole training; they differ in their share of every batch, and the first one reports and saves."""
    work: Path = options.work
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{work.resolve()}/meeting", rank=worker, world_size=WORKERS)
    torch.manual_seed(SEED)
    text = Text(work)
    scenes, jittered, still, shift, scale = cached_latents(work)
    everything = np.arange(PICTURES)
    few = np.asarray([i for i in range(STILL_PICTURES) if len(scenes[i].things) == 1])
    singles = np.asarray([i for i, scene in enumerate(scenes) if len(scene.things) == 1])
    vae = AutoencoderKL.from_pretrained(work / "autoencoder").eval()
    model = build_transformer(text.width)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.99))
    first = fresh = 0
    if options.resume:
        state = torch.load(work / "checkpoint.pt")
        first, fresh = state["step"], state.get("fresh", 0)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        if state["optimiser"] is not None:
            optimiser.load_state_dict(state["optimiser"])
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"worker {worker}: {size:.2f} M parameters, shift {shift} scale {scale}", flush=True)

    started, running = time.monotonic(), 0.0
    for step in range(first, options.steps):
        rng = np.random.default_rng((SEED, step, worker))
        torch.manual_seed((SEED * 10**6 + step) * WORKERS + worker)
        optimiser.param_groups[0]["lr"] = rate_at(step, options.steps, fresh)
        early = step < EARLY_STEPS
        usable = everything if early else few if step >= STILL_STEPS else singles
        latents = still if step >= STILL_STEPS else jittered
        chosen = usable[rng.integers(len(usable), size=BATCH // WORKERS)]
        captions = [caption_for(scenes[i], rng, step) for i in chosen]
        sequence, pooled = text([c.text for c in captions])
        x = latents[chosen].float()
        noise = torch.randn_like(x)
        middle = [mean for start, mean in TIME_MEANS if step >= start][-1]
        t = torch.sigmoid(middle + TIME_SPREAD * torch.randn(len(x)))
        mixed = x + t.view(-1, 1, 1, 1) * (noise - x)
        velocity = model(mixed, sequence, pooled, t * TIMESTEPS).sample
        error = (velocity - (noise - x)) ** 2
        loss = (error * error_weights([scenes[i] for i in chosen], captions, step)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            decay = min(EMA, (1 + step - fresh) / (10 + step - fresh))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        running += (loss.item() - running) * (0.02 if step > first else 1)
        done = step + 1
        if worker:
            continue
        if done % 50 == 0:
            seconds = time.monotonic() - started
            pace = (done - first) * BATCH / seconds
            print(f"{done}/{options.steps} {seconds:.0f} s  {pace:.0f}/s  loss {running:.4f}", flush=True)
        if done % options.examine_every == 0 or done == options.steps:
            average.save_pretrained(work / "transformer")
            state = {"step": done, "fresh": fresh, "model": model.state_dict(), "average": average.state_dict()}
            torch.save({**state, "optimiser": optimiser.state_dict()}, work / "checkpoint.new")
            (work / "checkpoint.new").replace(work / "checkpoint.pt")
            print(f"  {examine(average, text, vae, shift, scale)}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Trains and saves; prints the loss and now and then the held-out marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from WORK/checkpoint.pt")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--examine-every", type=int, default=400)
    parser.add_argument("--only-latents", action="store_true", help="stop when the latents are cached")
    options = parser.parse_args()
    torch.set_num_threads(2)
    cached_latents(options.work)
    if options.only_latents:
        return
    (options.work / "meeting").unlink(missing_ok=True)
    multiprocessing.spawn(train, (options,), nprocs=WORKERS)


if __name__ == "__main__":
    main()
