"""Trains the two pocket text encoders to say, linearly, everything a caption says.

    python -m pocket_model.train_text --work WORK

Each encoder's projected pooled vector must let linear heads read the background, the relation and both things' shape,
colour, cell and size, "not said" and "no second thing" included. The second phase starts with new heads and a new
optimiser, fits the heads alone for a little while, and lets the rate fall to nothing. The heads are thrown away.
Writes ``WORK/tokenizer``, ``WORK/text_encoder`` and ``WORK/text_encoder_2``, which stay frozen from then on.
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
STEPS, HORIZON, RATE = 1250, 2500, 2e-3  # the horizon is that of the cosine along which the rate falls
LAST_STEPS, LAST_RATE, HEAD_STEPS, HEAD_RATE = 500, 1.2e-3, 60, 1e-2
BATCH, WARM_UP = 128, 150
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


class Trainer:
    """Both encoders with fresh heads and a fresh optimiser."""

    def __init__(self, tokenizer: CLIPTokenizer, encoders: list[CLIPTextModelWithProjection]) -> None:
        self.tokenizer, self.encoders = tokenizer, encoders
        self.heads = nn.ModuleList([nn.Linear(e.config.projection_dim, sum(CLASSES)) for e in encoders])
        self._weights = [p for e in encoders for p in e.parameters()]
        groups = [{"params": self._weights}, {"params": list(self.heads.parameters())}]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))

    def logits(self, ids: Tensor) -> list[list[Tensor]]:
        """For each encoder, each head's [n, classes]."""
        pooled = [e(ids).text_embeds for e in self.encoders]
        return [list(h(p).split(CLASSES, 1)) for h, p in zip(self.heads, pooled, strict=True)]

    def step(self, captions: list[Caption], rate: float, head_rate: float) -> float:
        """One update, of the heads alone if ``rate`` is nothing; returns the loss."""
        answers = torch.tensor([labels_of(c) for c in captions])
        ids = tokenise(self.tokenizer, [c.text for c in captions])
        # Nothing after the end mark matters to the pooled vector, the attention being causal: train on what is used.
        ids = ids[:, : int((ids == self.tokenizer.eos_token_id).int().argmax(1).max()) + 1]
        for weight in self._weights:
            weight.requires_grad_(rate > 0)
        logits = self.logits(ids)
        loss = torch.stack([F.cross_entropy(p, answers[:, i]) for one in logits for i, p in enumerate(one)]).sum()
        for group, its_rate in zip(self._optimiser.param_groups, (rate, head_rate), strict=True):
            group["lr"] = its_rate
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self._weights, *self.heads.parameters()], 1.0)
        self._optimiser.step()
        return loss.item()

    @torch.no_grad()
    def right(self, captions: list[Caption]) -> str:
        """The share of captions each encoder alone reads without a fault, and the share right of its worst head."""
        answers = torch.tensor([labels_of(c) for c in captions])
        answered = self.logits(tokenise(self.tokenizer, [c.text for c in captions]))
        hits = torch.stack([torch.stack([part.argmax(1) for part in one], 1) == answers for one in answered])
        worst = hits.float().mean(1).min()
        return f"{hits[0].all(1).float().mean():.3f} {hits[1].all(1).float().mean():.3f} (worst head {worst:.3f})"


def main() -> None:
    """Trains and saves; prints the share of held-out captions of which every attribute is read rightly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--finish", action="store_true", help="only the second phase, from WORK/text_encoder and _2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    work: Path = options.work
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, work / "tokenizer")
    folders = [work / "text_encoder", work / "text_encoder_2"]
    exams = [held_out_captions(400, SEED + 1), held_out_captions(400, SEED + 2, two=True)]
    started = time.monotonic()

    def report(step: int, loss: float, trainer: Trainer) -> None:
        one, two = (trainer.right(e) for e in exams)
        print(f"{step} {time.monotonic() - started:.0f} s  loss {loss:.4f}  one thing {one}, two {two}", flush=True)
        for encoder, folder in zip(trainer.encoders, folders, strict=True):
            encoder.save_pretrained(folder)

    if options.finish:
        encoders = [CLIPTextModelWithProjection.from_pretrained(f).train() for f in folders]
    else:
        encoders = [
            build_text_encoder(tokenizer, 96, 2, "quick_gelu"),
            build_text_encoder(tokenizer, 128, 3, "gelu"),
        ]
        trainer = Trainer(tokenizer, encoders)
        rng = np.random.default_rng(SEED)
        for step in range(STEPS):
            rate = RATE * 0.5 * (1 + math.cos(math.pi * step / HORIZON)) * min(1, (step + 1) / WARM_UP)
            loss = trainer.step(batch_of(rng, BATCH), rate, rate)
            if (step + 1) % 250 == 0:
                report(step + 1, loss, trainer)
    torch.manual_seed(SEED + 10)
    rng = np.random.default_rng(SEED + 10)
    trainer = Trainer(tokenizer, encoders)
    for _ in range(HEAD_STEPS):
        trainer.step(batch_of(rng, BATCH), 0.0, HEAD_RATE)
    for step in range(LAST_STEPS):
        rate = LAST_RATE * (1 - step / LAST_STEPS) * min(1, (step + 1) / 20)
        loss = trainer.step(batch_of(rng, BATCH), rate, rate)
        if (step + 1) % 100 == 0:
            report(STEPS + step + 1, loss, trainer)


if __name__ == "__main__":
    main()
