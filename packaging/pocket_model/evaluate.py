"""Measures a shipped folder, through diffusers' own pipeline, with the judge.

    python -m pocket_model.evaluate FOLDER [--steps 12] [--guidance 3] [--count 300] [--sheet sheet.png]

Every prompt is of shape × colour pairs never trained on. Sets: ``held-out`` (complete prompts in wordings never trained
on: the figures that count), ``vague`` (some attributes unsaid), ``two things``, ``negative`` (a negative prompt naming
the very colour that an open prompt took without it). Picture k of a set has seed k.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from PIL import Image, ImageDraw

from pocket_model.captions import Asked, Caption, write
from pocket_model.drawings import COLOURS, sample_scene
from pocket_model.judge import Score, look, mark
from pocket_model.train_autoencoder import psnr, scene_pictures

SEED = 2026
MAX_SEQUENCE_LENGTH = 1
"""The T5 tokens the transformer was trained with: one, of zeros."""


@dataclass(frozen=True)
class Settings:
    """How pictures are made."""

    steps: int
    guidance: float
    batch: int = 25


def load(folder: Path) -> StableDiffusion3Pipeline:
    """The pipeline as anyone would load it: float32 arithmetic on the bfloat16 weights."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusion3Pipeline, prompts: list[str], settings: Settings, negative: list[str] | None = None
) -> np.ndarray:
    """[n, 64, 64, 3] uint8; prompt k gets seed k."""
    made = []
    for start in range(0, len(prompts), settings.batch):
        part = slice(start, start + settings.batch)
        images = pipeline(
            prompts[part],
            negative_prompt=negative[part] if negative else None,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(prompts[part]))],
            output_type="np",
        ).images
        made.append((images * 255).round().astype(np.uint8))
    return np.concatenate(made)


def held_out(count: int, *, two: bool = False) -> list[Caption]:
    """Complete prompts of held-out pairs in held-out wordings."""
    rng = np.random.default_rng((SEED, two))
    captions: list[Caption] = []
    while len(captions) < count:
        caption = write(sample_scene(rng, held_out=True, two=two), rng, held_out=True)
        captions += [caption] if caption.held_out else []
    return captions


def vague(count: int) -> list[Caption]:
    """Prompts that say the shape and the colour, and each of the rest half the time."""
    rng = np.random.default_rng((SEED, 2))
    captions = []
    for _ in range(count):
        says = [("yes" if rng.random() < 0.5 else None) for _ in range(2)]
        asked = Asked("yes", "yes", *says)
        captions.append(write(sample_scene(rng, held_out=True), rng, asked=[asked], background=rng.random() < 0.5))
    return captions


def negatives(pipeline: StableDiffusion3Pipeline, count: int, settings: Settings) -> tuple[float, float]:
    """Draws "a <shape>" freely, then again from the same seeds with the colour it chose as the negative prompt:
    the share that kept that colour, and the share that still shows a thing."""
    prompts = [c.text for c in _shapes_only(count)]
    before = [look(p) for p in generate(pipeline, prompts, settings)]
    names = [s.things[0].colour if s.things else next(iter(COLOURS)) for s in before]
    after = [look(p) for p in generate(pipeline, prompts, settings, names)]
    kept = [bool(s.things) and s.things[0].colour == n for s, n in zip(after, names, strict=True)]
    there = [bool(s.things) for s in after]
    return float(np.mean(kept)), float(np.mean(there))


def _shapes_only(count: int) -> list[Caption]:
    rng = np.random.default_rng((SEED, 3))
    return [write(sample_scene(rng), rng, asked=[Asked("yes")], background=False, plain=True) for _ in range(count)]


def measure(captions: list[Caption], pictures: np.ndarray) -> tuple[Score, list[bool]]:
    """The marks of a set and which pictures are entirely right."""
    score = Score.zero()
    return score, [mark(score, c, p) for c, p in zip(captions, pictures, strict=True)]


def sheet(captions: list[Caption], pictures: np.ndarray, right: list[bool], columns: int = 6) -> Image.Image:
    """Pictures at three times their size with their prompts; a red frame where something is wrong."""
    wide, high = 210, 250
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (wide * columns, high * rows), "white")
    pen = ImageDraw.Draw(page)
    for i, (caption, picture, good) in enumerate(zip(captions, pictures, right, strict=True)):
        x, y = i % columns * wide, i // columns * high
        pen.rectangle((x + 2, y + 2, x + 199, y + 199), fill="black" if good else "red")
        page.paste(Image.fromarray(picture).resize((192, 192), Image.Resampling.NEAREST), (x + 5, y + 5))
        text = caption.text
        for line in range(3):
            pen.text((x + 4, y + 202 + 14 * line), text[34 * line : 34 * line + 34], fill="black")
    return page


def main() -> None:
    """Prints the table of the model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--shift", type=float, help="of the noise schedule, instead of the folder's")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", choices=("held-out",), help="leave out the other sets")
    parser.add_argument("--sheet", type=Path, help="write a page of the first 36 held-out pictures")
    options = parser.parse_args()
    torch.set_num_threads(2)
    settings = Settings(options.steps, options.guidance)
    pipeline = load(options.folder)
    if options.shift:
        settled = pipeline.scheduler.config
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(settled, shift=options.shift)

    captions = held_out(options.count)
    started = time.monotonic()
    pictures = generate(pipeline, [c.text for c in captions], settings)
    pace = (time.monotonic() - started) / len(captions)
    score, right = measure(captions, pictures)
    print(f"held-out ({len(captions)}): {score}  [{pace:.2f} s a picture in batches]", flush=True)
    if options.sheet:
        sheet(captions[:36], pictures[:36], right[:36]).save(options.sheet)
    if options.only:
        return
    for name, others in (("vague", vague(options.count // 2)), ("two things", held_out(options.count // 2, two=True))):
        pictures = generate(pipeline, [c.text for c in others], settings)
        score, right = measure(others, pictures)
        print(f"{name} ({len(others)}): {score}", flush=True)
        if options.sheet:
            sheet(others[:36], pictures[:36], right[:36]).save(
                options.sheet.with_stem(f"{options.sheet.stem}-{name[:3]}")
            )
    kept, there = negatives(pipeline, options.count // 4, settings)
    print(f"negative ({options.count // 4}): colour kept {100 * kept:.1f} %, thing still there {100 * there:.1f} %")
    vae: AutoencoderKL = pipeline.vae
    print(f"autoencoder on 256 held-out drawings: {psnr(vae, scene_pictures(256, SEED, held_out=True)):.2f} dB")
    started = time.monotonic()
    generate(pipeline, ["a small red heart in the top left corner on a white background"], settings)
    print(
        f"one picture alone: {time.monotonic() - started:.2f} s at {options.steps} steps, guidance {options.guidance}"
    )


if __name__ == "__main__":
    main()
