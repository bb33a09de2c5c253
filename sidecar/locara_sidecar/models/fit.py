"""Does a model fit this machine? Pure: numbers in, a verdict out.

``no``: more than the machine can ever give to one process. ``tight``: it can, but not with what is free just
now. The shares are the operating systems' own limits, not measurements of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from locara_protocol.model_messages import ModelFit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from locara_sidecar.models.catalogue import Need, Quantization

GIB = 1 << 30
QUANTIZATIONS: dict[str, tuple[Quantization, ...]] = {"mlx": ("none", "8bit", "4bit"), "torch": ("none",)}
"""What each engine can load, best first."""

_COMFORT = 0.85
_DRIVER = 0.6  # GiB that a GPU's driver and context take


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes, container limits applied.

    :param kind: ``unified`` (Apple silicon), ``gpu`` (``total`` and ``available`` are the GPU's own) or ``ram``.
    :param reserved: what other daemons' engines hold or were promised.
    """

    kind: Literal["unified", "gpu", "ram"]
    total: int
    available: int
    reserved: int = 0


def capacity(machine: Machine) -> int:
    """The most that one engine may use, in bytes, when nothing else needs memory."""
    if machine.kind == "gpu":
        return max(0, machine.total - int(_DRIVER * GIB))
    if machine.kind == "unified":
        # what Metal recommends as the largest working set: two thirds, three quarters on large machines
        return machine.total * 3 // 4 if machine.total > 36 * GIB else machine.total * 2 // 3
    return machine.total * 9 // 10


def free(machine: Machine) -> int:
    """What an engine could get now: what the system says, less what is promised to others but not yet taken."""
    return max(0, min(machine.available, capacity(machine) - machine.reserved))


def assess(need: Need, machine: Machine) -> Literal["fits", "tight", "no"]:
    """The verdict for one engine and quantization."""
    if need.peak > capacity(machine):
        return "no"
    return "fits" if need.peak <= free(machine) * _COMFORT else "tight"


def table(memory: Mapping[Quantization, Need], machine: Machine, engines: Iterable[str]) -> list[ModelFit]:
    """Every engine and quantization that there is for a model, the engines in the order given, best quality first."""
    return [
        ModelFit(
            engine=engine,
            quantization=quantization,
            fit=assess(memory[quantization], machine),
            weights=memory[quantization].weights,
            peak=memory[quantization].peak,
            available=free(machine),
        )
        for engine in engines
        for quantization in QUANTIZATIONS.get(engine, ())
        if quantization in memory
    ]


def recommend(rows: Iterable[ModelFit]) -> ModelFit | None:
    """The first that fits; else the smallest that would if others gave memory back; else None."""
    rows = list(rows)
    fitting = [row for row in rows if row.fit == "fits"]
    tight = sorted((row for row in rows if row.fit == "tight"), key=lambda row: row.peak)
    return next(iter([*fitting, *tight]), None)
