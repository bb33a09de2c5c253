"""transformers' tokenizers as what :mod:`locara_sidecar.engine.truncation` asks."""

from __future__ import annotations

from typing import Any

from locara_sidecar.engine.truncation import Reader


def reader_of(name: str, tokenizer: Any, limit: int) -> Reader:
    """A tokenizer that reads up to ``limit`` tokens, as a reader with the name ``name``."""

    def starts(text: str) -> list[int]:
        offsets: list[tuple[int, int]] = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return [start for start, _ in offsets]

    return Reader(name, limit, tokenizer.num_special_tokens_to_add(), starts)
