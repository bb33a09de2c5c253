"""Evaluates a model folder with diffusers' own pipeline and the judge; or the judge itself, on true pictures.

    python -m pocket_model.evaluate FOLDER [--work WORK] [--things 500] [--shapes 200] [--sheet sheet.png]
    python -m pocket_model.evaluate FOLDER --exact
    python -m pocket_model.evaluate --check-judge

With ``--exact`` the transformer gets the vectors that the text encoders should output: what is still wrong then is its
own fault, the rest is theirs.

Sets: ``things`` (captions as in training, vague ones included, of pairs that training may have seen), ``new pairs``
(thing × ground that training never saw), ``shapes in full`` and ``vague shapes``. Picture k of a set has seed k. The
sheets show each picture with the nearest training picture to its right.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from pocket_model import places
from pocket_model.captions import Writer
from pocket_model.codes import WIDTH, looks
from pocket_model.drawings import CELLS, COLOURS
from pocket_model.judge import Judge, look_shape
from pocket_model.network import CONTEXT_LENGTH
from pocket_model.pictures import composite, rendered
from pocket_model.scenes import CENTRES, Scene, drawn, nearest_name
from pocket_model.shape_captions import shape_caption
from pocket_model.shape_judge import Score
from pocket_model.show import page
from pocket_model.things import STYLES, all_things
from pocket_model.train_text import targets

if TYPE_CHECKING:
    from pocket_model.phrases import Caption

SEED = 2028
MAX_SEQUENCE_LENGTH = 1


def load(folder: Path) -> StableDiffusion3Pipeline:
    """The pipeline as anyone would load it: float32 arithmetic on the bfloat16 weights."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Any, asked: list[str] | torch.Tensor, steps: int, guidance: float, batch: int = 20
) -> np.ndarray:
    """[n, 128, 128, 3] uint8 from prompts or from their vectors [n, WIDTH]; the k-th gets seed k."""
    made: list[np.ndarray] = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        images = pipeline(
            **({"prompt": part} if isinstance(part, list) else embeddings(part)),
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=128,
            width=128,
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            output_type="np",
        ).images
        made.append((images * 255).round().astype(np.uint8))
    return np.concatenate(made)


def embeddings(codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The pipeline's arguments for vectors [n, WIDTH] instead of prompts; the text tokens' values do not matter."""
    tokens, empty = codes.new_zeros(len(codes), CONTEXT_LENGTH, WIDTH), torch.zeros_like(codes)
    return {
        "prompt_embeds": tokens,
        "negative_prompt_embeds": tokens,
        "pooled_prompt_embeds": codes,
        "negative_pooled_prompt_embeds": empty,
    }


def thing_captions(writer: Writer, count: int) -> list[Caption]:
    """Captions of pairs that training may have seen."""
    rng = np.random.default_rng((SEED, 1))
    found: list[Caption] = []
    while len(found) < count:
        caption = writer.of_thing(rng)
        if caption.scene is not None and not writer.held_out(caption.scene):
            found.append(caption)
    return found


def new_pairs(writer: Writer, count: int) -> list[Caption]:
    """Captions of things on grounds that training never put behind them."""
    rng = np.random.default_rng((SEED, 2))
    found: list[Caption] = []
    while len(found) < count:
        caption = writer.of_thing(rng, ground=list(COLOURS)[rng.integers(len(COLOURS))])
        if caption.scene is not None and writer.held_out(caption.scene):
            found.append(caption)
    return found


def shape_captions(count: int, full: bool) -> list[Caption]:
    rng = np.random.default_rng((SEED, 3, full))
    made: list[Caption] = []
    while len(made) < count:
        caption = shape_caption(rng, full=full)
        if caption.scene is not None and caption.scene.ground in COLOURS.values():
            made.append(caption)
    return made


def mark_thing(score: Score, judge: Judge, caption: Caption, picture: np.ndarray) -> int:
    """Adds a picture's marks; returns the thing of the nearest training picture."""
    assert caption.scene is not None
    assert caption.scene.thing is not None
    seen = judge.look(picture)
    score.add("thing", seen.thing in caption.things)
    if caption.says_style:
        score.add("style", judge.style_of(picture, caption.scene.thing, seen.ground) == caption.scene.style)
    if caption.says_ground:
        score.add("ground", seen.ground_name == nearest_name(caption.scene.ground))
    score.add("not blank", not seen.blank)
    return seen.thing


def mark_shape(score: Score, caption: Caption, picture: np.ndarray) -> bool:
    """Adds a picture's marks for a coloured shape, including unstated attributes. Returns whether all are right."""
    assert caption.scene is not None
    assert caption.scene.shape is not None
    wanted, seen = caption.scene.shape, look_shape(picture)
    column, row = (min(range(3), key=lambda i: abs(CENTRES[i] - c)) for c in wanted.centre)
    marks = {
        "shape": seen is not None and seen.shape == wanted.shape,
        "colour": seen is not None and seen.colour == nearest_name(wanted.colour),
        "ground": seen is not None and seen.ground == nearest_name(caption.scene.ground),
        "place": seen is not None and seen.cell == CELLS[3 * row + column],
        "alone": seen is not None and seen.alone,
    }
    marks["everything"] = all(marks.values())
    for attribute, right in marks.items():
        score.add(attribute, right)
    return marks["everything"]


def check_judge(writer: Writer, judge: Judge, pictures: np.ndarray, count: int) -> str:
    """The judge's marks for true pictures: every wrong one is the judge's error."""
    things, shapes = Score.zero(), Score.zero()
    rng = np.random.default_rng((SEED, 4))
    for caption in thing_captions(writer, count):
        assert caption.scene is not None
        mark_thing(things, judge, caption, true_picture(caption.scene, pictures, rng))
    for caption in shape_captions(count, True) + shape_captions(count, False):
        assert caption.scene is not None
        mark_shape(shapes, caption, true_picture(caption.scene, pictures, rng))
    return f"true things: {things}\ntrue shapes: {shapes}"


def true_picture(scene: Scene, pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[128, 128, 3] uint8, with a little noise, because no generated picture is exact."""
    picture = drawn(scene, pictures) + rng.normal(0, 4, (128, 128, 1))
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def beside(picture: np.ndarray, judge: Judge, pictures: np.ndarray) -> np.ndarray:
    """A picture and the nearest training picture on the same ground, side by side at half the size."""
    seen = judge.look(picture)
    near = composite(pictures[STYLES.index(seen.style), seen.thing], np.asarray(seen.ground, np.float32))
    both = [Image.fromarray(np.rint(p).astype(np.uint8)).resize((64, 64)) for p in (picture, near)]
    out = np.full((128, 128, 3), 255, np.uint8)
    out[32:96, :64], out[32:96, 64:] = (np.asarray(b) for b in both)
    return out


def main() -> None:
    """Prints the figures in the model card."""
    parser = places.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--check-judge", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--things", type=int, default=500)
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    things = all_things(options.work)
    writer, pictures = Writer(options.work, things), np.array(rendered(options.work, things))
    judge = Judge(pictures)
    if options.check_judge:
        print(check_judge(writer, judge, pictures, options.things // 2))
        return
    if options.folder is None:
        parser.error("a folder to measure, or --check-judge")
    pipeline = load(options.folder)
    sets = {
        "things": thing_captions(writer, options.things),
        "new pairs": new_pairs(writer, options.things // 3),
        "shapes in full": shape_captions(options.shapes // 2, True),
        "vague shapes": shape_captions(options.shapes // 2, False),
    }
    for name, captions in sets.items():
        started, score = time.monotonic(), Score.zero()
        asked = targets(captions, looks(options.work, pictures)) if options.exact else [c.text for c in captions]
        made = generate(pipeline, asked, options.steps, options.guidance)
        for caption, picture in zip(captions, made, strict=True):
            if caption.things:
                mark_thing(score, judge, caption, picture)
            else:
                mark_shape(score, caption, picture)
        pace = (time.monotonic() - started) / len(captions)
        print(f"{name} ({len(captions)}): {score}  [{pace:.2f} s a picture]", flush=True)
        if options.sheet and name == "things":
            shown = [beside(p, judge, pictures) for p in made[:60]]
            page(np.stack(shown), [c.text for c in captions[:60]]).save(options.sheet)


if __name__ == "__main__":
    main()
