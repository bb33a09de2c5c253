"""Makes the tokenizer: a byte-level BPE learnt from captions, so large that nearly every word is one token.

Its rules are CLIP's, as in version 1: see ``pocket_model.tokenizer``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from pocket_model.tokenizer import END, LENGTH, START

if TYPE_CHECKING:
    from pocket2.captions import Writer

SEED = 5
CAPTIONS, MERGED_SIZE = 30_000, 4700


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
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
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
