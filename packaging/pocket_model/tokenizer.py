"""Makes the tokenizer: a byte-level BPE learnt from captions, so large that nearly every word is one token.

Its rules (lower case, word ends marked ``</w>``, ``<|startoftext|>`` and ``<|endoftext|>``) are CLIP's, so that
``CLIPTokenizer`` loads it; all 256 bytes are in the vocabulary, so that any text has a tokenisation. Padding is
``<|endoftext|>``; the text encoders pool at the first of those.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from pocket_model.captions import Writer

SEED = 5
LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
CAPTIONS, MERGED_SIZE = 30_000, 4700
"""Captions to learn from, and the trainer's vocabulary, which holds only the characters seen; the full one adds the
other bytes."""


def make_tokenizer(writer: Writer) -> CLIPTokenizer:
    """Learns the merges and returns the tokenizer; the same every time."""
    rules = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    rng = np.random.default_rng(SEED)
    texts = [writer.random(rng).text for _ in range(CAPTIONS)]
    own = [phrase for phrases in writer.own for phrase in phrases]
    texts += [*writer.meanings] * 4 + own * 12  # names are the words to know whole
    trainer = BpeTrainer(vocab_size=MERGED_SIZE, min_frequency=4, end_of_word_suffix="</w>", show_progress=False)
    learner.train_from_iterator(texts, trainer)
    merges: Any = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{c}</w>" for c in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes ``tokenizer.json``, and ``vocab.json`` with ``merges.txt`` for readers that know only those."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
