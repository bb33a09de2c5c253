"""Trains the two text encoders to output a prompt's vector (``codes``); resumes from its checkpoint automatically.

    python -m pocket_model.train_text [--work WORK] [--steps N]

Each encoder's projected pooled vector is one part of the vector: the first has the plain attributes and the coarse
looks of the thing, the second the finer looks. Writes ``WORK/tokenizer`` and both encoders' folders.
"""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from pocket_model.captions import Writer
from pocket_model.codes import ATTRIBUTES, STYLE, WIDTH, WIDTHS, code, looks
from pocket_model.phrases import NOTHING, Caption
from pocket_model.pictures import rendered
from pocket_model.running import Checkpoints, follow, stage_options
from pocket_model.things import all_things
from pocket_model.tokenizer import LENGTH, make_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SEED = 11
STEPS, BATCH = 6000, 128
RATE, WARM_UP, COOL_DOWN = 1.5e-3, 200, 0.4
ATTRIBUTE_WEIGHT = 15.0
PRACTICE_SHARE, PRACTICE_EVERY = 0.3, 200
"""The share of a batch that practises what is understood worst, and after how many steps that is measured again."""
LAYERS, ACTIVATIONS = (2, 2), ("quick_gelu", "gelu")
STYLE_LOUDNESS = 1.15
"""The factor by which the shipped encoder amplifies the learnt style; the style is then right more often."""
DONE = "text.done"
"""The file that marks the encoders as finished: from then on the transformer is trained on their output, too."""
FOLDERS = ("text_encoder", "text_encoder_2")
EMA = 0.99


def build_text_encoder(
    tokenizer: CLIPTokenizer, width: int, layers: int, activation: str
) -> CLIPTextModelWithProjection:
    """An untrained CLIP text encoder whose projection is as wide as itself."""
    marks: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
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
            **marks,
        )
    )


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[n, up to 32] ids: nothing after the longest text's end mark is needed, because the attention is causal."""
    ids = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    return ids[:, : int((ids == tokenizer.eos_token_id).int().argmax(1).max()) + 1]


def say_style_louder(encoder: CLIPTextModelWithProjection, times: float) -> None:
    """Make the first encoder amplify the style that it has learnt by this factor."""
    with torch.no_grad():
        rows = encoder.text_projection.weight[STYLE]
        rows.copy_(rows.float() * times)


def rate_at(step: int, steps: int, warm_from: int = 0) -> float:
    """Warm-up from the step at which the optimiser was new, plateau, linear fall over the last part."""
    warm = (step - warm_from + 1) / WARM_UP
    return RATE * min(1.0, warm, max(0.01, (steps - step) / (COOL_DOWN * steps)))


class Text:
    """The trained text side."""

    def __init__(self, work: Path) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.encoders = [CLIPTextModelWithProjection.from_pretrained(work / f).eval() for f in FOLDERS]

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """[n, WIDTH]."""
        return pooled(self.encoders, tokenise(self.tokenizer, texts))


def pooled(encoders: list[CLIPTextModelWithProjection], ids: Tensor) -> Tensor:
    """Both projected pooled vectors side by side, [n, WIDTH]."""
    return torch.cat([e(ids).text_embeds for e in encoders], 1)


def targets(captions: list[Caption], all_looks: np.ndarray) -> Tensor:
    """[n, WIDTH]: what the encoders should output."""
    rows = [np.zeros(WIDTH, np.float32) if c.scene is None else code(c.scene, all_looks) for c in captions]
    return torch.from_numpy(np.stack(rows))


def examine(said: Tensor, wanted: Tensor, captions: list[Caption], all_looks: np.ndarray) -> str:
    """The share of captions whose thing is the nearest of all by its looks, and errors of both parts."""
    numbers = [i for i, c in enumerate(captions) if c.scene is not None and c.scene.thing is not None]
    known = torch.from_numpy(all_looks)
    nearest = torch.cdist(said[numbers, ATTRIBUTES:], known).argmin(1)
    right = [int(n) in captions[i].things for n, i in zip(nearest, numbers, strict=True)]
    error = (said - wanted).square()
    return (
        f"right thing {100 * np.mean(right):.1f} %  attributes {error[:, :ATTRIBUTES].mean():.4f}  "
        f"looks {error[:, ATTRIBUTES:].mean() / wanted[:, ATTRIBUTES:].square().mean():.4f} of their variance"
    )


def restored(state: dict[str, Any], parts: list[Any]) -> tuple[int, int]:
    """Loads a checkpoint's parts; returns its step, and the step from which the rate warms up.

    A checkpoint of ``unpack`` has no optimiser, since it does not ship: then the rate warms up again.
    """
    for part, saved in zip(parts, state["parts"], strict=True):
        if saved is not None:
            part.load_state_dict(saved)
    return state["step"], 0 if state["parts"][-1] is not None else state["step"]


class Practice:
    """Asks for every phrase, and its plural, the more often the worse the encoders understand it.

    There are ten thousand of them, and at random each is asked for about once in a hundred steps.
    """

    def __init__(self, writer: Writer, all_looks: np.ndarray) -> None:
        self._writer = writer
        phrases = list(writer.meanings)
        self._asked = [(p, False) for p in phrases] + [(p, True) for p in phrases if not p.endswith("s")]
        things = [writer.meanings[p][0] for p, _ in self._asked]
        self._wanted = torch.from_numpy(all_looks[things])
        self.errors = np.ones(len(self._asked))
        """Of each phrase: the error of its looks, 1 before the first examination."""

    def examine(self, encoders: list[CLIPTextModelWithProjection], tokenizer: CLIPTokenizer) -> None:
        """Measures how well each phrase is understood on its own."""
        texts = [f"{phrase}s" if plural else phrase for phrase, plural in self._asked]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            said = [pooled(encoders, tokenise(tokenizer, texts[i : i + 256])) for i in range(0, len(texts), 256)]
        errors = (torch.cat(said)[:, ATTRIBUTES:].float() - self._wanted).square().mean(1)
        self.errors = errors.double().numpy()

    def captions(self, rng: np.random.Generator, count: int) -> list[Caption]:
        """Training captions, in ordinary wording."""
        made: list[Caption] = []
        share = self.errors / self.errors.sum()
        while len(made) < count:
            phrase, plural = self._asked[rng.choice(len(share), p=share)]
            caption = self._writer.of_thing(rng, phrase=phrase, plural=plural)
            if caption.scene is not None and not self._writer.held_out(caption.scene):
                made.append(caption)
        return made


def main() -> None:
    """Trains, printing the loss and now and then the figures for captions never trained on."""
    options = stage_options(__doc__, STEPS, SEED)
    work: Path = options.work
    checkpoints = Checkpoints(work, "text")
    things = all_things(work)
    writer = Writer(work, things)
    all_looks = looks(work, rendered(work, things))
    state = checkpoints.load()
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer") if state else make_tokenizer(writer)
    save_tokenizer(tokenizer, work / "tokenizer")
    encoders = [build_text_encoder(tokenizer, w, n, a) for w, n, a in zip(WIDTHS, LAYERS, ACTIVATIONS, strict=True)]
    averages = [copy.deepcopy(e).requires_grad_(False).eval() for e in encoders]
    weights = [p for e in encoders for p in e.parameters()]
    optimiser = torch.optim.AdamW(weights, RATE, weight_decay=0.0, betas=(0.9, 0.98))
    first, warm_from = restored(state, [*encoders, *averages, optimiser]) if state else (0, 0)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in weights) / 1e6:.2f} M parameters, from step {first}")
    exam = [writer.random(np.random.default_rng((SEED, 10**9, i))) for i in range(500)]
    exam_ids, exam_wanted = tokenise(tokenizer, [c.text for c in exam]), targets(exam, all_looks)
    practice = Practice(writer, all_looks)
    importance = torch.ones(WIDTH)
    importance[:ATTRIBUTES] = ATTRIBUTE_WEIGHT

    def snapshot() -> dict[str, object]:
        for average, folder in zip(averages, FOLDERS, strict=True):
            average.save_pretrained(work / folder)
        with torch.no_grad():
            print(f"{done} {examine(pooled(averages, exam_ids), exam_wanted, exam, all_looks)}", flush=True)
        if done == options.steps:
            (work / DONE).touch()
        return {"step": done, "parts": [p.state_dict() for p in [*encoders, *averages, optimiser]]}

    started, running = time.monotonic(), 0.0
    for step in range(first, options.steps):
        rng = np.random.default_rng((SEED, step))
        optimiser.param_groups[0]["lr"] = rate_at(step, options.steps, warm_from)
        if step == first or step % PRACTICE_EVERY == 0:
            practice.examine(averages, tokenizer)
        practised = practice.captions(rng, round(PRACTICE_SHARE * BATCH))
        captions = [*(writer.random(rng) for _ in range(BATCH - 1 - len(practised))), *practised, NOTHING]
        with torch.autocast("cpu", torch.bfloat16):
            said = pooled(encoders, tokenise(tokenizer, [c.text for c in captions])).float()
        loss = ((said - targets(captions, all_looks)).square() * importance).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        done = step + 1
        with torch.no_grad():
            for average, encoder in zip(averages, encoders, strict=True):
                decay = min(EMA, (1 + step) / (10 + step))
                follow(average.parameters(), encoder.parameters(), 1 - decay)
        running += (loss.item() - running) * (0.02 if step > first else 1.0)
        if done % 100 == 0:
            print(f"{done} {(done - first) / (time.monotonic() - started):.2f} steps/s  loss {running:.4f}", flush=True)
        checkpoints.after_step(snapshot, last=done == options.steps)


if __name__ == "__main__":
    main()
