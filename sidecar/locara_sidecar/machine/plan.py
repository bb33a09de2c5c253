"""The memory plan: which bits, which components at once, decoding in strips or not. Pure: numbers in, a decision out.

A model's parts are known by numbers (:class:`Part`), from the catalogue in the daemon and from the opened folder in an
engine; both agree, and so do the fit that ``models.list`` shows and what a job then does.

A job's memory has four moments, and the highest is the plan's peak:

    encoding    encoders, decoder, the denoiser if it is resident
    denoising   denoiser, decoder, the encoders if they are resident, and what a step computes with
    decoding    decoder, what else is resident, and what decoding computes with
    loading     what is resident by then and one tensor in float32

Before them an edit's picture and mask are decoded, one after the other. What that takes is known from their headers
(``engine/decoding``) and asked for first: a model that is open leaves for it, and what then does not fit is refused.

What is given up to fit, in this order, each only if the one before is not enough: the encoders leave after encoding;
the denoiser is not there while they are (a new prompt then loads it again); decoding in strips (the same pixels up to
rounding, with some more work); the denoiser leaves before decoding; fewer bits. What the host names is not touched.
Only when nothing fits is a job refused.

What a phase computes with is proportional to the numbers it moves: :data:`DENOISING` and :data:`DECODING` were measured
on this engine with the true widths (``tests/fullsize/README.md``), rounded up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine.machine import GIB, Machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Quantization = Literal["none", "8bit", "4bit"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "8bit", "4bit")
"""Best quality first."""

COMFORT = 0.85
"""The share of the free memory that a plan fills without need."""

HEADROOM = 0.25
"""How far an allocator may go over its plan, as a part of the plan's peak: the figures of a plan are rounded up, and
a limit that bites makes every step slower."""

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BITS = {8: 8.5, 4: 4.5}  # a quantized weight with its share of scales and offsets, in the engine that takes more
_SMALL_ENCODER = 1_000_000_000  # parameters: CLIP, which takes little and is left as it is
_ENGINE = int(0.7 * GIB)  # Python, torch and the libraries, before any weight
DENOISING = 30.0
"""Numbers in use at the peak of a step, for each token and channel: FLUX 27 … 29, SD3.5 Medium 15 … 21, SDXL's UNet
24."""
DECODING = 11.0
"""Numbers in use at the peak of decoding, for each pixel and each of the decoder's first channels: 8 … 10."""
STRIPS = 2.25
"""The same in strips (``engine/drawing/strips.py``): two maps of the largest size, and the ends of a third."""
_STRIP = 8 * 4 * (1 << 22)
"""Bytes beside the maps: what is made of a strip on the way, some of it in float32, and what its convolution takes."""
_KEEPING = 0.5
"""Of unified memory, which the user's other programs live in too: text encoders that are not needed any more stay only
if the whole peak is no more than that."""
_TENSORS = 256 << 20  # bytes of a few large tensors
_FIXED = 100 << 20  # bytes that a step or a decode takes however small it is


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One component with weights.

    :param parameters: all of them; ``quantizable``: those in layers that may be quantized.
    :param width: channels that the denoiser (of a token) or the decoder (of a pixel) works with; 0 for encoders.
    :param stride: pixels of a side that make one token of the denoiser.
    """

    name: str
    role: Literal["encoder", "denoiser", "decoder"]
    parameters: int
    quantizable: int = 0
    width: int = 0
    stride: int = 16


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a job wants. ``precision`` is never ``auto``; ``guided``: two predictions a step; ``edits``: there is a
    source image, whose tokens (instruction editing) or encoding come on top; ``prepared``: the quantizations in which
    the model is kept, so that nothing is quantized while it is read."""

    width: int
    height: int
    precision: str
    quantization: str = "auto"
    tiling: str = "auto"
    guided: bool = False
    edits: bool = False
    text_tokens: int = 512
    prepared: frozenset[str] = frozenset()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is done.

    :param weights: bytes of all components together.
    :param peak: bytes at the highest moment.
    :param step: of them, what a step computes with.
    """

    quantization: Quantization
    tiled: bool
    encoders_leave: bool
    alone: bool
    denoiser_leaves: bool
    weights: int
    peak: int
    step: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that an engine's allocator may hold, for engines whose allocator can be told.

    :param memory: with what it keeps for reuse; above it the allocator gives that back first, and lets no more work
        wait in its queue than is under way.
    :param cache: what it may keep for reuse.
    """

    memory: int
    cache: int


def bits(part: Part, quantization: str) -> int:
    """The bits of a part's quantizable layers; 0 where they keep the job's precision."""
    small = part.role == "encoder" and part.parameters < _SMALL_ENCODER
    if quantization == "none" or part.role == "decoder" or small:
        return 0
    return int(quantization.removesuffix("bit"))


def weight_bytes(part: Part, quantization: str, precision: str) -> int:
    """What a part's weights take in memory."""
    kept, value = bits(part, quantization), VALUE_BYTES[precision]
    if not kept:
        return part.parameters * value
    return int(part.quantizable * _BITS[kept] / 8) + (part.parameters - part.quantizable) * value


def candidates(parts: Sequence[Part], ask: PlanRequest, kind: str) -> Iterator[Plan]:
    """Every plan that ``ask`` allows, the best one first."""
    wanted = QUANTIZATIONS if ask.quantization == "auto" else (ask.quantization,)
    tilings = {"on": (True,), "off": (False,)}.get(ask.tiling, (False, True))
    ways = [(tiled, *way, False) for tiled in tilings for way in ((False, False), (True, False), (True, True))]
    ways += [(tiled, True, True, True) for tiled in tilings]
    for quantization in wanted:
        for tiled, leave, alone, last in ways:
            yield _plan(parts, ask, kind, quantization, tiled=tiled, leave=leave, alone=alone, last=last)


def choose(parts: Sequence[Part], ask: PlanRequest, machine: Machine) -> Plan | None:
    """The best plan that leaves some memory free, else the one that needs least if it fits at all, else None.

    On unified memory what decides about pixels, bits and strips, follows what the machine has and not what is free at
    the moment: the same request makes the same picture, whatever other programs do. (The system makes room by
    compressing what those hold, and its figure of what is available leaves that out.) What is resident at the same time
    follows the moment.
    """
    plans = list(candidates(parts, ask, machine.kind))
    if machine.kind == "unified":
        found = _first(plans, machines.limit(machine) * COMFORT, machine)
        if found is not None:
            alike = [plan for plan in plans if (plan.quantization, plan.tiled) == (found.quantization, found.tiled)]
            now = _first(alike, machines.free(machine) * COMFORT, machine)
            return now or min(alike, key=lambda plan: plan.peak)
    elif (found := _first(plans, machines.free(machine) * COMFORT, machine)) is not None:
        return found
    least = min(plans, key=lambda plan: plan.peak)
    return least if least.peak <= machines.limit(machine) else None


def _first(plans: Iterable[Plan], comfortable: float, machine: Machine) -> Plan | None:
    """The first plan that takes no more than ``comfortable`` bytes."""
    keeping = min(comfortable, machine.total * _KEEPING) if machine.kind == "unified" else comfortable
    return next((plan for plan in plans if plan.peak <= (comfortable if plan.encoders_leave else keeping)), None)


def tight(plan: Plan, machine: Machine) -> str | None:
    """What to say of a plan that takes more than is free now, on a machine whose system makes room for it."""
    free = machines.free(machine)
    if machine.kind != "unified" or plan.peak <= free:
        return None
    return (
        f"This takes {plan.peak / GIB:.1f} GiB of memory, but only {free / GIB:.1f} GiB are free: the system must take"
        " the rest from other programs, which is slow. Closing some of them helps. So does a smaller quantization,"
        " which is not chosen automatically, since it changes the picture."
    )


def limits(plan: Plan, machine: Machine) -> Limits:
    """The allocator's share of ``plan``: its peak and :data:`HEADROOM` of it, within what the machine has, less what
    the process takes beside the allocator.

    Kept for reuse is what one step computes with, because the next step computes with the same again. So between two
    steps weights and leftovers together are what a step needs anyway, and the system's figure for the process stays
    near the height of what the allocator has in use.
    """
    return _limits(plan.peak, plan.step, machine)


def limits_of_preparing(needed: int, machine: Machine) -> Limits:
    """The same while a model is prepared, which takes ``needed`` bytes at its height: tensors come and go then."""
    return _limits(needed, _TENSORS, machine)


def _limits(peak: int, kept: int, machine: Machine) -> Limits:
    whole = min(machines.limit(machine), int(peak * (1 + HEADROOM)))
    return Limits(memory=whole - _base(machine.kind), cache=kept)


def require(parts: Sequence[Part], ask: PlanRequest, machine: Machine) -> Plan:
    """:func:`choose`, or a refusal with the figures.

    :raises EngineError: InsufficientMemory with ``needed``, ``available`` and ``suggestions``.
    """
    plan = choose(parts, ask, machine)
    if plan is not None:
        return plan

    needed = min(plan.peak for plan in candidates(parts, ask, machine.kind))
    available = machines.limit(machine)
    raise EngineError(
        "InsufficientMemory",
        f"This needs {needed / GIB:.1f} GiB of memory; {available / GIB:.1f} GiB is available.",
        needed=needed,
        available=available,
        suggestions=_suggestions(parts, ask, machine),
    )


def room(machine: Machine, taken: int) -> int:
    """Bytes that an engine may take for a moment beside the ``taken`` that it has.

    :param machine: main memory, in which pictures are decoded.
    """
    return max(0, machines.limit(machine) - taken)


def require_room(needed: int, available: int) -> None:
    """:raises EngineError: InsufficientMemory with the figures, where decoding a picture takes more than there is."""
    if needed > available:
        raise EngineError(
            "InsufficientMemory",
            f"Decoding this picture needs {needed / GIB:.1f} GiB of memory; {available / GIB:.1f} GiB is available.",
            needed=needed,
            available=available,
            suggestions=["a picture with fewer pixels", "closing other programs"],
        )


def _suggestions(parts: Sequence[Part], ask: PlanRequest, machine: Machine) -> list[str]:
    """What would fit, one change each; closing other programs is always one."""
    found: list[str] = []
    changes: dict[str, dict[str, Any]] = {
        "quantization 4bit": {"quantization": "4bit"},
        "tiling on": {"tiling": "on"},
        "512 x 512 pixels": {"width": 512, "height": 512},
    }
    for words, change in changes.items():
        if choose(parts, msgspec.structs.replace(ask, **change), machine) is not None:
            found.append(words)
    if machine.reserved:
        found.append("ending other applications' image engines")
    return [*found, "closing other programs", "a smaller model"]


def _plan(
    parts: Sequence[Part],
    ask: PlanRequest,
    kind: str,
    quantization: Any,
    *,
    tiled: bool,
    leave: bool,
    alone: bool,
    last: bool,
) -> Plan:
    size = {
        role: sum(weight_bytes(part, quantization, ask.precision) for part in parts if part.role == role)
        for role in ("encoder", "denoiser", "decoder")
    }
    denoiser = next(part for part in parts if part.role == "denoiser")
    decoder = next(part for part in parts if part.role == "decoder")
    value = VALUE_BYTES[ask.precision]
    encoders, computing, pixels = size["encoder"], size["denoiser"], size["decoder"]
    stay = 0 if leave else encoders
    transient = _transient(parts, quantization, prepared=quantization in ask.prepared)
    encoding = encoders + (0 if alone else computing) + pixels + transient
    step = _step_bytes(denoiser, ask, value)
    denoising = stay + computing + pixels + max(step, transient)
    decoding = stay + (0 if last else computing) + pixels + _decode_bytes(decoder, ask, value, tiled=tiled)
    return Plan(
        quantization=quantization,
        tiled=tiled,
        encoders_leave=leave,
        alone=alone,
        denoiser_leaves=last,
        weights=sum(size.values()),
        peak=_base(kind) + max(encoding, denoising, decoding),
        step=step,
    )


def _base(kind: str) -> int:
    """What the engine's process takes before any weight; on a GPU that is not what is short."""
    return 0 if kind == "gpu" else _ENGINE


def preparing(parts: Sequence[Part], quantization: Quantization, precision: str, kind: str) -> int:
    """Peak memory of preparing a model, in bytes: its components are quantized one at a time."""
    largest = max(weight_bytes(part, quantization, precision) for part in parts)
    return _base(kind) + largest + _transient(parts, quantization)


def _transient(parts: Sequence[Part], quantization: str, *, prepared: bool = False) -> int:
    """One large tensor in float32, and its copy, while it is quantized. Taken as a fortieth of the largest part; those
    that were prepared are read to where they stay."""
    largest = max((part.parameters for part in parts if not (prepared and bits(part, quantization))), default=0)
    return largest // 40 * (8 if quantization != "none" and not prepared else 4)


def _step_bytes(denoiser: Part, ask: PlanRequest, value: int) -> int:
    tokens = (ask.width // denoiser.stride) * (ask.height // denoiser.stride) * (2 if ask.edits else 1)
    batch = 2 if ask.guided else 1
    return int(batch * (tokens + ask.text_tokens) * denoiser.width * value * DENOISING) + _FIXED


def _decode_bytes(decoder: Part, ask: PlanRequest, value: int, *, tiled: bool) -> int:
    pixels = ask.width * ask.height
    image = pixels * 3 * (value + 4)  # the tensor, and the picture that is made of it
    maps = pixels * decoder.width * value
    whole = int(maps * DECODING) + _FIXED
    return image + (min(whole, int(maps * STRIPS) + _STRIP) if tiled else whole)
