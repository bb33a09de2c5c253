"""Trains the two pocket text encoders to say, linearly, everything a caption says.

    python -m pocket_model.train_text --work WORK

Each encoder's projected pooled vector must let linear heads read the background, the relation and both things' shape,
colour, cell and size, "not said" and "no second thing" included. The heads are thrown away. Writes
``WORK/tokenizer``, ``WORK/text_encoder`` and ``WORK/text_encoder_2``. The picture model is trained on these frozen.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from pocket_model.captions import Caption, random_caption, write
from pocket_model.drawings import CELLS, COLOURS, SHAPES, SIZES, sample_scene
from pocket_model.tokenizer import LENGTH, make_tokenizer, save_tokenizer

SEED = 3
STEPS, BATCH = 2500, 128
PEAK_RATE, WARM_UP = 2e-3, 150
TWO_SHARE = 0.3
_NAMES = (SHAPES, tuple(COLOURS), CELLS, tuple(SIZES))
_RELATIONS = ("left", "right", "above", "below")
CLASSES = [len(COLOURS) + 1, len(_RELATIONS) + 1] + [len(n) + 2 for n in _NAMES] * 2
"""Background, relation, then shape, colour, cell, size of each thing: 0 is "not said", the last "no such thing"."""


def build_text_encoder(
    tokenizer: CLIPTokenizer, width: int, layers: int, activation: str
) -> CLIPTextModelWithProjection:
    """An untrained CLIP text encoder whose projection is as wide as itself."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=LENGTH,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[n, 32] ids, just as diffusers' SD3 pipeline makes them."""
    ids = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    return ids


def labels_of(caption: Caption) -> list[int]:
    """What each head should answer."""
    answers = [
        list(COLOURS).index(caption.background) + 1 if caption.background else 0,
        _RELATIONS.index(caption.relation) + 1 if caption.relation else 0,
    ]
    for number in range(2):
        if number >= max(1, len(caption.things)):
            answers += [len(names) + 1 for names in _NAMES]
            continue
        said = caption.things[number] if caption.things else None
        values = (said.shape, said.colour, said.cell, said.size) if said else (None,) * 4
        answers += [names.index(v) + 1 if v else 0 for names, v in zip(_NAMES, values, strict=True)]
    return answers


def batch_of(rng: np.random.Generator, size: int) -> list[Caption]:
    """Training captions; one in fifty says nothing at all."""
    captions = [random_caption(sample_scene(rng, two=rng.random() < TWO_SHARE), rng) for _ in range(size - size // 50)]
    return captions + [Caption("", None, ())] * (size // 50)


def held_out_captions(count: int, seed: int, *, two: bool = False) -> list[Caption]:
    """Complete captions of held-out pairs in held-out wordings."""
    rng = np.random.default_rng(seed)
    made = [write(sample_scene(rng, held_out=True, two=two), rng, held_out=True) for _ in range(count)]
    return [c for c in made if c.held_out]


def main() -> None:
    """Trains and saves; prints the share of held-out captions of which every attribute is read rightly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, options.work / "tokenizer")
    first = build_text_encoder(tokenizer, 96, 2, "quick_gelu")
    second = build_text_encoder(tokenizer, 128, 3, "gelu")
    heads = nn.ModuleList([nn.Linear(96, sum(CLASSES)), nn.Linear(128, sum(CLASSES))])
    weights = [*first.parameters(), *second.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    rng = np.random.default_rng(SEED)

    def logits(ids: Tensor) -> list[list[Tensor]]:
        pooled = (first(ids).text_embeds, second(ids).text_embeds)
        return [list(h(p).split(CLASSES, 1)) for h, p in zip(heads, pooled, strict=True)]

    @torch.no_grad()
    def right(captions: list[Caption]) -> str:
        answers = torch.tensor([labels_of(c) for c in captions])
        answered = logits(tokenise(tokenizer, [c.text for c in captions]))
        hits = torch.stack([torch.stack([part.argmax(1) for part in one], 1) == answers for one in answered])
        worst = hits.float().mean((0, 1)).min()
        return f"{hits[0].all(1).float().mean():.3f} {hits[1].all(1).float().mean():.3f} (worst head {worst:.3f})"

    exams = [held_out_captions(400, SEED + 1), held_out_captions(400, SEED + 2, two=True)]
    started = time.monotonic()
    for step in range(options.steps):
        rate = PEAK_RATE * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        optimiser.param_groups[0]["lr"] = max(rate, 1e-5) * min(1, (step + 1) / WARM_UP)
        captions = batch_of(rng, BATCH)
        answers = torch.tensor([labels_of(c) for c in captions])
        ids = tokenise(tokenizer, [c.text for c in captions])
        # Nothing after the end mark matters to the pooled vector, the attention being causal: train on what is used.
        ids = ids[:, : int((ids == tokenizer.eos_token_id).int().argmax(1).max()) + 1]
        loss = torch.stack([F.cross_entropy(p, answers[:, i]) for one in logits(ids) for i, p in enumerate(one)]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            print(
                f"{step + 1}/{options.steps} {time.monotonic() - started:.0f} s  loss {loss.item():.4f}  "
                f"all right, one thing {right(exams[0])}, two things {right(exams[1])}",
                flush=True,
            )
            first.save_pretrained(options.work / "text_encoder")
            second.save_pretrained(options.work / "text_encoder_2")


if __name__ == "__main__":
    main()
