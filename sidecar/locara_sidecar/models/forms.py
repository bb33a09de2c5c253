"""Which prepared forms an engine may load in a model's place: those of the very model, made for the very numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_sidecar.engine.frames import PREPARED_LAYOUT, PreparedForm

if TYPE_CHECKING:
    from locara_sidecar.engine.frames import ModelSpec
    from locara_sidecar.models.store import Installed, Store


def usable(store: Store) -> list[Installed]:
    """The prepared forms that the engines of this version can load."""
    return [entry for entry in store.forms() if (made := entry.derived_from) and made.layout == PREPARED_LAYOUT]


def forms_for(store: Store, model: ModelSpec, engine: str) -> list[PreparedForm]:
    """The prepared forms that a job may load in place of this very model."""
    return [
        PreparedForm(quantization=made.quantization, precision=made.precision, path=str(entry.folder))
        for entry in usable(store)
        if (made := entry.derived_from)
        and (made.digest, made.engine) == (model.digest, engine)
        and model.quantization in ("auto", made.quantization)
        and model.precision in ("auto", made.precision)
    ]
