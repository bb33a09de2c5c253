"""A cache of encoded texts, so that a repeated prompt needs no text encoder, whether or not it is loaded."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

    from locara_sidecar.engine.drawing.family import Embedding

_KEPT = 16


class EmbeddingKey(NamedTuple):
    """What an embedding depends on: the encoders (their model, precision and quantization), the text and the length."""

    model: Hashable
    text: str
    length: int


class Embeddings:
    """The most recently used embeddings (a few MB each) of any model, independent of what is loaded."""

    def __init__(self) -> None:
        self._kept: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()

    def __contains__(self, key: EmbeddingKey) -> bool:
        return key in self._kept

    def get(self, key: EmbeddingKey) -> Embedding:
        """Return an embedding and mark it as most recently used.

        :raises KeyError: if it is not cached.
        """
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Store an embedding and evict the least recently used one if the cache is full."""
        self._kept[key] = embedding
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
