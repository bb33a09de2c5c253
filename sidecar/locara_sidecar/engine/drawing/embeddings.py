"""Encoded texts that are kept, so that a repeated prompt needs no text encoder, loaded or not."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

    from locara_sidecar.engine.drawing.family import Embedding

_KEPT = 16


class EmbeddingKey(NamedTuple):
    """What an embedding depends on: the encoders (their model, precision and quantization), the text, the length."""

    model: Hashable
    text: str
    length: int


class Embeddings:
    """The latest embeddings (a few MB each), whichever model they are of; they are independent of what is loaded."""

    def __init__(self) -> None:
        self._kept: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()

    def __contains__(self, key: EmbeddingKey) -> bool:
        return key in self._kept

    def get(self, key: EmbeddingKey) -> Embedding:
        """The embedding, which is now the last to be forgotten.

        :raises KeyError: when it is not known.
        """
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an embedding; the one that was used longest ago makes room."""
        self._kept[key] = embedding
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
