"""Machines of every size, and what the catalogue's models ask of the memory plan."""

import msgspec

from locara_sidecar.machine import plan as plans
from locara_sidecar.machine.machine import GIB, Machine
from locara_sidecar.models import catalogue

KNOWN = catalogue.load()


def machine(kind, gib, free=None, **more):
    share = 0.97 if kind == "gpu" else 0.8
    return Machine(kind=kind, total=gib * GIB, available=int((free or gib * share) * GIB), **more)


def ask(model, **changes):
    defaults = KNOWN.named(model).defaults
    wanted = plans.PlanRequest(
        width=defaults.width,
        height=defaults.height,
        precision="bfloat16",
        guided=KNOWN.named(model).classifier_free_guidance,
        text_tokens=defaults.max_sequence_length + 77,
    )
    return msgspec.structs.replace(wanted, **changes)


def parts(model):
    return KNOWN.named(model).components
