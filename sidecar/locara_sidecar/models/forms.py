"""The prepared forms that an engine may load in a model's place: only those of exactly this model and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_sidecar.ipc.frames import PREPARED_LAYOUT, PreparedForm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_sidecar.ipc.frames import ModelSpec
    from locara_sidecar.models.cache.store import Installed


def usable(entries: Iterable[Installed]) -> list[Installed]:
    """Return the entries that are prepared forms which the engines of this version can load."""
    whole = [entry for entry in entries if not entry.meta.damaged]
    return [entry for entry in whole if (made := entry.derived_from) and made.layout == PREPARED_LAYOUT]


def forms_for(entries: Iterable[Installed], model: ModelSpec, engine: str) -> list[PreparedForm]:
    """Return the prepared forms among the entries that a job may load in place of this exact model."""
    return [
        PreparedForm(quantization=made.quantization, precision=made.precision, path=str(entry.folder))
        for entry in usable(entries)
        if (made := entry.derived_from)
        and (made.digest, made.engine) == (model.digest, engine)
        and model.quantization in ("auto", made.quantization)
        and model.precision in ("auto", made.precision)
    ]
