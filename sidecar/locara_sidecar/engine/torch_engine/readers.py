"""transformers' tokenizers: opened from a model folder, and as what :mod:`locara_sidecar.engine.truncation` asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from locara_sidecar.engine import model_folder
from locara_sidecar.engine.truncation import Reader

if TYPE_CHECKING:
    from pathlib import Path


class Kind(NamedTuple):
    """The tokenizer of one encoder: ``name`` for people, the class that opens it and the names that a folder may give
    that class. ``files``: those that it can be opened from, one of them is enough. ``own_limit``: it reads as many
    tokens as its configuration says, and not as many as the job does."""

    name: str
    cls: Any
    classes: frozenset[str]
    files: tuple[str, ...]
    own_limit: bool


def _clip(name: str) -> Kind:
    classes = frozenset({"CLIPTokenizer", "CLIPTokenizerFast"})
    return Kind(name, CLIPTokenizer, classes, ("tokenizer.json", "vocab.json"), own_limit=True)


CLIP_L, CLIP_G = _clip("CLIP-L"), _clip("CLIP-G")
T5 = Kind("T5", T5Tokenizer, frozenset({"T5Tokenizer", "T5TokenizerFast"}), ("tokenizer.json",), own_limit=False)


def open_tokenizer(folder: Path, name: str, kind: Kind) -> Any:
    """A tokenizer from ``tokenizer.json``, or from ``vocab.json`` and ``merges.txt`` as in older folders.

    :raises EngineFault: ModelIncomplete or IntegrityError, naming the file.
    """
    model_folder.read_json(folder, f"{name}/tokenizer_config.json")
    present = [file for file in kind.files if (folder / name / file).is_file()]
    if not present:
        raise model_folder.incomplete(f"{name}/tokenizer.json")
    for file in present:
        model_folder.read_json(folder, f"{name}/{file}")
    try:
        return kind.cls.from_pretrained(str(folder / name), local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception
        raise model_folder.broken(f"{name}/{present[0]}", "it is no tokenizer") from error


def reader_of(kind: Kind, tokenizer: Any, max_sequence_length: int) -> Reader:
    """An opened tokenizer as a reader, in a job with so many tokens for T5."""

    def starts(text: str) -> list[int]:
        offsets: list[tuple[int, int]] = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return [start for start, _ in offsets]

    limit: int = tokenizer.model_max_length if kind.own_limit else max_sequence_length
    return Reader(kind.name, limit, tokenizer.num_special_tokens_to_add(), starts)
