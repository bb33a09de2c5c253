"""The description of a model that the engine gets: the catalogue's entry plus the call's options. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.ipc.frames import ModelSpec, Sides

if TYPE_CHECKING:
    from locara_sidecar.models.catalogue import Entry


def sides_of(entry: Entry) -> Sides:
    """Return the sizes that a model allows, in the engine's format."""
    return msgspec.convert(entry.sides, Sides, from_attributes=True)


def model_spec(
    entry: Entry,
    *,
    folder: str,
    digest: str,
    quantization: str | None = None,
    precision: str | None = None,
    sides: Sides | None = None,
) -> ModelSpec:
    """Build the engine's description of a model.

    :param digest: empty while nobody has hashed the folder.
    :param sides: given if a call allows fewer sizes than the model does.
    """
    return ModelSpec(
        id=entry.id,
        version=entry.version,
        digest=digest,
        family=entry.family,
        path=folder,
        max_sequence_length=entry.defaults.max_sequence_length,
        quantization=quantization or "auto",
        precision=precision or "auto",
        sides=sides or sides_of(entry),
        schedulers=entry.schedulers,
    )
