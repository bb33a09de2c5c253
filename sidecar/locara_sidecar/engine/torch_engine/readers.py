"""Open transformers' tokenizers from a model folder, for ``engine/drawing/prompts/truncation.py``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from locara_sidecar.engine.drawing.prompts import conversation
from locara_sidecar.engine.drawing.prompts.truncation import Reader
from locara_sidecar.engine.folder import model_folder

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.machine.supported import Tokenizer


def open_tokenizer(folder: Path, name: str, kind: Tokenizer) -> Any:
    """Open a tokenizer from ``tokenizer.json`` or, as in older folders, ``vocab.json`` and ``merges.txt``.

    ``tokenizer_check.py`` has checked which of them exist.

    :raises EngineError: IntegrityError naming the file.
    """
    model_folder.read_json(folder, f"{name}/tokenizer_config.json")
    present = [file for file in ("tokenizer.json", "vocab.json") if (folder / name / file).is_file()]
    for file in present:
        model_folder.read_json(folder, f"{name}/{file}")
    module: Any = importlib.import_module(f"transformers.models.{kind.package}.tokenization_{kind.package}")
    cls = next(getattr(module, own) for own in sorted(kind.classes) if hasattr(module, own))
    try:
        tokenizer = cls.from_pretrained(str(folder / name), local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception
        raise model_folder.broken(f"{name}/{present[0]}", "it is not a tokenizer") from error
    if kind.converses:
        tokenizer.chat_template = conversation.template(kind)
    return tokenizer


def highest_id(tokenizer: Any) -> int:
    """Return the highest id that an opened tokenizer can produce."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return max(vocabulary.values(), default=0)


def reader_of(kind: Tokenizer, tokenizer: Any, max_sequence_length: int) -> Reader:
    """Return an opened tokenizer as a reader, for jobs whose T5 length is ``max_sequence_length``."""

    def starts(text: str) -> list[int]:
        said = conversation.said(kind, text)
        offsets: list[tuple[int, int]] = tokenizer(said, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return conversation.starts(kind, text, [start for start, _ in offsets])

    limit: int = tokenizer.model_max_length if kind.own_limit else max_sequence_length
    return Reader(kind.title, limit, tokenizer.num_special_tokens_to_add(), starts, tokenizer.truncation_side == "left")
