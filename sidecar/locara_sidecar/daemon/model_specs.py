"""A model as the engine is told of it: from the catalogue, as a call wants it, as this machine has it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from locara_sidecar.daemon.sizes import sides_of
from locara_sidecar.engine.frames import JobSpec, LoadSpec, ModelSpec, Sides

if TYPE_CHECKING:
    from locara_sidecar.daemon.model_use import Held
    from locara_sidecar.models.catalogue import Entry

Spec = TypeVar("Spec", JobSpec, LoadSpec)


def model_spec(
    entry: Entry,
    *,
    folder: str,
    digest: str,
    quantization: str | None,
    precision: str | None,
    sides: Sides | None = None,
) -> ModelSpec:
    """A model as the engine is told of it; ``sides`` where a call allows less than the model does."""
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
    )


def on_this_machine(spec: Spec, held: Held) -> Spec:
    """The job with its model as it is on this machine now."""
    return msgspec.structs.replace(spec, model=model_on_this_machine(spec.model, held))


def model_on_this_machine(model: ModelSpec, held: Held) -> ModelSpec:
    """A model whose memory plan knows what other daemons' engines take, and of which a prepared form may be loaded."""
    return msgspec.structs.replace(model, reserved=held.reserved, prepared=held.forms)
