"""Tokenizer folders in the forms in which models were published, over the tiny vocabularies of the fixtures.

The members and their values are those of the tokenizer files of Stable Diffusion XL (2023), Stable Diffusion 3.5 and
FLUX.1 (2024), as in public copies; ids are those of the tiny vocabulary.
"""

import json
import shutil
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).parents[2] / "fixtures" / "models" / "tiny-sd3"
START, END = "<|startoftext|>", "<|endoftext|>"


def token(text, **more):
    """Return a token with all its flags, as the libraries of 2022 and 2023 saved it."""
    return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **more}


def typed(text, **more):
    return {"__type": "AddedToken", **token(text, **more)}


def write(path, value):
    path.write_text(json.dumps(value))


def pairs_of(folder):
    """Write vocab.json and merges.txt; return the vocabulary."""
    described = json.loads((FIXTURE / "tokenizer" / "tokenizer.json").read_text())
    vocab = described["model"]["vocab"] | {added["content"]: added["id"] for added in described["added_tokens"]}
    folder.mkdir(parents=True)
    write(folder / "vocab.json", vocab)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return vocab


def clip_2023(folder, pad=END, **config):
    """Write SDXL's tokenizer (``pad`` is the end token) or tokenizer_2 (``pad``: ``!``), or Stable Diffusion 1.5's."""
    vocab = pairs_of(folder)
    roles = {"bos_token": typed(START), "eos_token": typed(END), "unk_token": typed(END), "pad_token": pad}
    plain: dict[str, Any] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
    }
    plain |= {"tokenizer_class": "CLIPTokenizer", "clean_up_tokenization_spaces": True}
    write(folder / "tokenizer_config.json", plain | roles | config)
    roles = {"bos_token": token(START), "eos_token": token(END), "unk_token": token(END), "pad_token": pad}
    write(folder / "special_tokens_map.json", roles)
    return vocab


def clip_2024(folder, pad=END, **config):
    """Write SD 3.5's tokenizer or tokenizer_2: tokens listed by id, roles as texts."""
    vocab = pairs_of(folder)
    listed = {str(vocab[text]): token(text, special=True) for text in (START, END)}
    if pad == "!":
        listed[str(vocab["!"])] = token("!", normalized=False, special=True)
    roles = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    plain: dict[str, Any] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
    }
    plain |= {"tokenizer_class": "CLIPTokenizer", "clean_up_tokenization_spaces": True}
    write(folder / "tokenizer_config.json", plain | {"added_tokens_decoder": listed} | roles | config)
    write(folder / "special_tokens_map.json", {"bos_token": token(START), "eos_token": token(END), "pad_token": pad})
    return vocab


def t5_2024(folder, *, listed=True, **config):
    """Write FLUX's tokenizer_2 or SD 3.5's tokenizer_3: sentinels, each of which swallows the spaces beside it."""
    shutil.copytree(FIXTURE / "tokenizer_3", folder)
    described = json.loads((folder / "tokenizer.json").read_text())
    size = len(described["model"]["vocab"])
    named = {0: "<pad>", 1: "</s>", 2: "<unk>"}
    switches = {"normalized": False, "special": True}
    tokens = {index: token(text, **switches) for index, text in named.items()}
    described["model"]["vocab"] += [[f"<extra_id_{i}>", 0.0] for i in range(99, -1, -1)]
    for i in range(100):
        tokens[size + 99 - i] = token(f"<extra_id_{i}>", **switches, lstrip=True, rstrip=True)
    described["added_tokens"] = [{"id": index, **fields} for index, fields in sorted(tokens.items())]
    write(folder / "tokenizer.json", described)
    sentinels = [f"<extra_id_{i}>" for i in range(100)]
    plain: dict[str, Any] = {
        "add_prefix_space": True,
        "clean_up_tokenization_spaces": True,
        "extra_ids": 100,
        "legacy": True,
    }
    plain |= {"additional_special_tokens": sentinels, "model_max_length": 512, "tokenizer_class": "T5Tokenizer"}
    plain |= {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if listed:
        plain["added_tokens_decoder"] = {str(index): fields for index, fields in sorted(tokens.items())}
    write(folder / "tokenizer_config.json", plain | config)
    roles = {role: token(text, normalized=False) for role, text in
             (("eos_token", "</s>"), ("pad_token", "<pad>"), ("unk_token", "<unk>"))}  # fmt: skip
    write(folder / "special_tokens_map.json", {"additional_special_tokens": sentinels, **roles})
    return size


def with_inversions(folder, pad=END):
    """Write Stable Diffusion's tokenizer after textual inversion, as of 2022: texts with ids in a separate file."""
    vocab = clip_2023(folder, pad)
    first = max(vocab.values()) + 1
    write(
        folder / "added_tokens.json", {"<sks>": first, "<Blue-Style>": first + 1, END: vocab[END], "red toy": first + 2}
    )
    return vocab


def with_extras(folder, where, member, tokens):
    """Write a tokenizer whose additional special tokens are in ``member`` of the file ``where``."""
    clip_2023(folder, "!")
    path = folder / where
    write(path, json.loads(path.read_text()) | {member: tokens})
