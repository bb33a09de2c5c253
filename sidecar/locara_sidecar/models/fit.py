"""Decides whether a model fits this machine. Pure: numbers in, a verdict out.

The figures come from the memory plan (:mod:`locara_sidecar.machine.plan`), based on the sizes of the model's components
in the catalogue. The same function decides when a job runs, so what ``models.list`` says is what happens.

``no``: more than the machine can ever give to one process. ``tight``: it can, but not with what is free right now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_protocol.model_messages import ModelFit
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine import plan as plans
from locara_sidecar.machine import supported

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from locara_protocol.model_messages import Fit
    from locara_sidecar.machine.machine import Machine
    from locara_sidecar.machine.plan import Plan, PlanRequest
    from locara_sidecar.models.catalogue import Entry

_CLIP_TOKENS = 77


def ask_of(entry: Entry, machine: Machine) -> PlanRequest:
    """Return what a job with the model's defaults needs on this machine."""
    slow_halves = machine.kind == "ram" and not machines.cpu_has_bfloat16()
    return plans.PlanRequest(
        width=entry.defaults.width,
        height=entry.defaults.height,
        precision="float32" if slow_halves else machine.half,
        guided=entry.classifier_free_guidance and entry.defaults.guidance > 1,
        text_tokens=entry.defaults.max_sequence_length + _CLIP_TOKENS,
    )


def table(
    entry: Entry, machine: Machine, engines: Iterable[str], prepared: Collection[tuple[str, str]] = ()
) -> list[ModelFit]:
    """Rate every engine and quantization that a model supports, engines in the given order, best quality first.

    :param prepared: engine and quantization of the prepared forms, for which loading quantizes nothing.
    """
    ask = ask_of(entry, machine)
    rows: list[ModelFit] = []
    for engine in engines if entry.components else ():
        for quantization in supported.ENGINES[engine].quantizations:
            ready = frozenset({quantization} if (engine, quantization) in prepared else ())
            wanted = msgspec.structs.replace(ask, quantization=quantization, prepared=ready)
            fit, plan = assess(entry, wanted, machine)
            rows.append(
                ModelFit(
                    engine=engine,
                    quantization=quantization,
                    fit=fit,
                    weights=plan.weights,
                    peak=plan.peak,
                    available=machines.free(machine),
                )
            )
    return rows


def assess(entry: Entry, ask: PlanRequest, machine: Machine) -> tuple[Fit, Plan]:
    """Return the verdict, and the plan that it is about: the one that would be used, or the smallest."""
    chosen = plans.choose(entry.components, ask, machine)
    plan = chosen or min(plans.candidates(entry.components, ask, machine.kind), key=lambda plan: plan.peak)
    if plan.peak > machines.capacity(machine):
        return "no", plan
    return "fits" if plan.peak <= machines.free(machine) * plans.COMFORT else "tight", plan


def promise(entry: Entry, machine: Machine) -> int:
    """Return the peak memory, in bytes, of a job with the model's defaults on this machine."""
    return assess(entry, ask_of(entry, machine), machine)[1].peak


def recommend(rows: Iterable[ModelFit]) -> ModelFit | None:
    """Return the first that fits; else the smallest that would fit if others freed memory; else None."""
    rows = list(rows)
    fitting = [row for row in rows if row.fit == "fits"]
    tight = sorted((row for row in rows if row.fit == "tight"), key=lambda row: row.peak)
    return next(iter([*fitting, *tight]), None)
