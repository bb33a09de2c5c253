"""The memory plan: which bits, which components at once, decoding in strips or not. Pure: numbers in, a decision out.

A model's parts are described by numbers (:class:`Part`), from the catalogue in the daemon and from the opened folder in
an engine; both agree, and so does the fit in ``models.list`` with what a job then does.

A job's memory has four phases, and the highest is the plan's peak:

    encoding    encoders, decoder, the denoiser if it is resident
    denoising   denoiser, decoder, the encoders if they are resident, and the working memory of a step or, in an edit,
                of encoding one of its pictures
    decoding    decoder, whatever else is resident, and the decoding's working memory
    loading     what is resident by then and one tensor in float32

Before that, an edit's pictures and its mask are decoded, one after the other. The memory for that is computed from
their headers (``engine/decoding``) and reserved first: an open model is unloaded for it, and what then does not fit is
refused.

To make a job fit, the plan gives up the following, in this order, and only as much as needed: the encoders are unloaded
after encoding; the denoiser is not loaded while they are (a new prompt then loads it again); decoding in strips (the
same pixels up to rounding, with some more work); the denoiser is unloaded before decoding; fewer bits. What the host
specifies is not changed. A job is refused only if nothing fits.

A phase's working memory is proportional to the number of elements it handles: :data:`DENOISING` and :data:`DECODING`
were measured on this engine with the real widths (``tests/fullsize/README.md``), rounded up.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine.machine import GIB, Machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Quantization = Literal["none", "8bit", "4bit"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "8bit", "4bit")
"""Best quality first."""

COMFORT = 0.85
"""The share of free memory that a plan may fill before anything is given up."""

HEADROOM = 0.25
"""How far an allocator may exceed its plan, as a fraction of the plan's peak: a plan's figures are rounded up, and
an allocator at its limit makes every step slower.
"""

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BITS = {8: 8.5, 4: 4.5}  # a quantized weight with its share of scales and biases, in the engine that takes more
_SMALL_ENCODER = 1_000_000_000  # parameters: CLIP, which is small and not quantized
_ENGINE = int(0.7 * GIB)  # Python, torch and the libraries, before any weight
DENOISING = 30.0
"""Elements in use at a step's peak, per token and channel: FLUX 27 … 29, SD3.5 Medium 15 … 21, SDXL's UNet
24.
"""
SUMS = 8
"""Additional bytes per token and channel of a step in float16, for sums in float32: 6.5 in FLUX on MLX's CPU, and less
in other models.
"""
DECODING = 11.0
"""Elements in use at the peak of decoding, per pixel and channel of the decoder's last stage: 8 … 10."""
STRIPS = 2.47
"""The same in strips (``engine/drawing/strips.py``): two maps of the largest size, and the ends of a third."""
ENCODING_STRIPS = 2.25
"""The same for encoding a picture in strips: its third map is smaller."""
_STRIP = 96 << 20
"""Bytes in addition to the maps: a strip's intermediate results, some in float32, and its convolution's workspace.

A processor without instructions for bfloat16 takes 4 MB more at 512 x 512, if somebody asks for bfloat16 there."""
_KEEPING = 0.5
"""Share of unified memory, which the user's other programs need too: text encoders that are no longer needed stay
loaded only if the whole peak is below it.
"""
_TENSORS = 256 << 20  # bytes of a few large tensors
_FIXED = 100 << 20  # minimum bytes of a step or a decode, however small


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One component with weights.

    :param parameters: total; ``quantizable``: those in layers that may be quantized.
    :param width: channels of the denoiser (per token) or the decoder (per pixel); 0 for encoders.
    :param stride: pixels along each side of one of the denoiser's tokens.
    :param wide: parameters that are in float32 in a float16 job, because its range is too small; for a decoder, all.
    """

    name: str
    role: Literal["encoder", "denoiser", "decoder"]
    parameters: int
    quantizable: int = 0
    width: int = 0
    stride: int = 16
    wide: int = 0


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a job needs. ``precision`` is never ``auto``; ``guided``: two predictions per step; ``references``: width
    and height of the pictures that it edits, whose tokens and encoding come on top; ``prepared``: the quantizations in
    which the model is kept, so that loading quantizes nothing.
    """

    width: int
    height: int
    precision: str
    quantization: str = "auto"
    tiling: str = "auto"
    guided: bool = False
    references: tuple[tuple[int, int], ...] = ()
    text_tokens: int = 512
    prepared: frozenset[str] = frozenset()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    :param weights: bytes of all components together.
    :param peak: bytes at the highest moment.
    :param step: of these, a step's working memory.
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
    """Bytes that an engine's allocator may hold, for engines whose allocator has limits.

    :param memory: including its cache; above this the allocator frees the cache first, and then queues no more work
        than is in progress.
    :param cache: what it may keep for reuse.
    """

    memory: int
    cache: int


def bits(part: Part, quantization: str) -> int:
    """Return the bits of a part's quantizable layers; 0 if they keep the job's precision."""
    small = part.role == "encoder" and part.parameters < _SMALL_ENCODER
    if quantization == "none" or part.role == "decoder" or small:
        return 0
    return int(quantization.removesuffix("bit"))


def weight_bytes(part: Part, quantization: str, precision: str) -> int:
    """Return the bytes of a part's weights in memory."""
    kept, value = bits(part, quantization), VALUE_BYTES[precision]
    if not kept:
        wide = part.wide if precision == "float16" else 0
        return (part.parameters - wide) * value + wide * VALUE_BYTES["float32"]
    return int(part.quantizable * _BITS[kept] / 8) + (part.parameters - part.quantizable) * value


def candidates(parts: Sequence[Part], ask: PlanRequest, kind: str) -> tuple[Plan, ...]:
    """Return every plan that ``ask`` allows, the best one first."""
    return _candidates(tuple(parts), ask, kind)


@functools.lru_cache(maxsize=128)  # what the memory is compared with changes from call to call; the plans do not
def _candidates(parts: tuple[Part, ...], ask: PlanRequest, kind: str) -> tuple[Plan, ...]:
    wanted = QUANTIZATIONS if ask.quantization == "auto" else (ask.quantization,)
    tilings = {"on": (True,), "off": (False,)}.get(ask.tiling, (False, True))
    ways = [(tiled, *way, False) for tiled in tilings for way in ((False, False), (True, False), (True, True))]
    ways += [(tiled, True, True, True) for tiled in tilings]
    return tuple(
        _plan(parts, ask, kind, quantization, tiled=tiled, leave=leave, alone=alone, last=last)
        for quantization in wanted
        for tiled, leave, alone, last in ways
    )


def choose(parts: Sequence[Part], ask: PlanRequest, machine: Machine) -> Plan | None:
    """Return the best plan that leaves some memory free, else the smallest if that fits at all, else None.

    On unified memory, whatever affects pixels (bits and strips) depends on the machine's memory, not on what is free at
    the moment: the same request makes the same picture, whatever other programs do. (The system makes room by
    compressing their memory, which its figure for available memory does not include.) What is resident at the same time
    depends on the moment.
    """
    plans = candidates(parts, ask, machine.kind)
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
    """Return the first plan that takes no more than ``comfortable`` bytes."""
    keeping = min(comfortable, machine.total * _KEEPING) if machine.kind == "unified" else comfortable
    return next((plan for plan in plans if plan.peak <= (comfortable if plan.encoders_leave else keeping)), None)


def tight(plan: Plan, machine: Machine) -> str | None:
    """Return a warning about a plan that takes more than is free now, on a machine whose system makes room for it."""
    free = machines.free(machine)
    if machine.kind != "unified" or plan.peak <= free:
        return None
    return (
        f"This takes {plan.peak / GIB:.1f} GiB of memory, but only {free / GIB:.1f} GiB are free: the system must take"
        " the rest from other programs, which is slow. Closing some of them helps. So does a smaller quantization,"
        " which is not chosen automatically, since it changes the picture."
    )


def limits(plan: Plan, machine: Machine) -> Limits:
    """Return the allocator's limits for ``plan``: its peak plus :data:`HEADROOM`, within the machine's memory, minus
    what the process takes outside the allocator.

    The cache may hold one step's working memory, because the next step needs the same again. So between two steps,
    weights and cache together are what a step needs anyway, and the system's figure for the process stays near the peak
    of what the allocator has in use.
    """
    return _limits(plan.peak, plan.step, machine)


def limits_of_preparing(needed: int, machine: Machine) -> Limits:
    """Return the limits for preparing a model, which has a peak of ``needed`` bytes: tensors come and go then."""
    return _limits(needed, _TENSORS, machine)


def _limits(peak: int, kept: int, machine: Machine) -> Limits:
    whole = min(machines.limit(machine), int(peak * (1 + HEADROOM)))
    return Limits(memory=whole - _base(machine.kind), cache=kept)


def require(parts: Sequence[Part], ask: PlanRequest, machine: Machine) -> Plan:
    """Return the plan of :func:`choose`, or refuse with the figures.

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
    """Return the bytes that an engine may briefly take in addition to the ``taken`` that it has.

    :param machine: main memory, in which pictures are decoded.
    """
    return max(0, machines.limit(machine) - taken)


def require_room(needed: int, available: int) -> None:
    """Check that there is enough memory to decode a picture.

    :raises EngineError: InsufficientMemory with the figures if there is not.
    """
    if needed > available:
        raise EngineError(
            "InsufficientMemory",
            f"Decoding this picture needs {needed / GIB:.1f} GiB of memory; {available / GIB:.1f} GiB is available.",
            needed=needed,
            available=available,
            suggestions=["a picture with fewer pixels", "closing other programs"],
        )


def _suggestions(parts: Sequence[Part], ask: PlanRequest, machine: Machine) -> list[str]:
    """Return what would fit, one change each; closing other programs is always one."""
    found: list[str] = []
    changes: dict[str, dict[str, Any]] = {
        "quantization 4bit": {"quantization": "4bit"},
        "tiling on": {"tiling": "on"},
        "512 x 512 pixels": {"width": 512, "height": 512},
    }
    if len(ask.references) > 1:
        changes["fewer pictures"] = {"references": ask.references[:1]}
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
    # one after another and before the first step
    coding = VALUE_BYTES["float32"] if decoder.wide and ask.precision == "float16" else value
    reading = max((_encode_bytes(decoder, size, coding, tiled=tiled) for size in ask.references), default=0)
    denoising = stay + computing + pixels + max(step, reading, transient)
    drawn = _decode_bytes(decoder, (ask.width, ask.height), coding, tiled=tiled)
    decoding = stay + (0 if last else computing) + pixels + drawn
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
    """Return what the engine process takes before any weight; on a GPU that is not the scarce resource."""
    return 0 if kind == "gpu" else _ENGINE


def preparing(parts: Sequence[Part], quantization: Quantization, precision: str, kind: str) -> int:
    """Return the peak memory of preparing a model, in bytes: its components are quantized one at a time."""
    largest = max(weight_bytes(part, quantization, precision) for part in parts)
    return _base(kind) + largest + _transient(parts, quantization)


def _transient(parts: Sequence[Part], quantization: str, *, prepared: bool = False) -> int:
    """Return the bytes of one large tensor in float32, and of its copy, while it is quantized. Estimated as a fortieth
    of the largest part; prepared ones are read into their final place.
    """
    largest = max((part.parameters for part in parts if not (prepared and bits(part, quantization))), default=0)
    return largest // 40 * (8 if quantization != "none" and not prepared else 4)


def _step_bytes(denoiser: Part, ask: PlanRequest, value: int) -> int:
    sizes = ((ask.width, ask.height), *ask.references)
    tokens = sum((width // denoiser.stride) * (height // denoiser.stride) for width, height in sizes)
    batch = 2 if ask.guided else 1
    each = value * DENOISING + (SUMS if ask.precision == "float16" else 0)
    return int(batch * (tokens + ask.text_tokens) * denoiser.width * each) + _FIXED


def _decode_bytes(decoder: Part, size: tuple[int, int], value: int, *, tiled: bool) -> int:
    return _pixel_bytes(decoder, size, value, STRIPS if tiled else None)


def _encode_bytes(decoder: Part, size: tuple[int, int], value: int, *, tiled: bool) -> int:
    """Return what encoding takes: in one piece no more than decoding."""
    return _pixel_bytes(decoder, size, value, ENCODING_STRIPS if tiled else None)


def coding_bytes(
    decoder: Part, way: Literal["decode", "encode"], size: tuple[int, int], value: int, *, tiled: bool
) -> int:
    """Return what decoding or encoding a picture of ``size`` takes, without weights; ``value``: bytes of a number."""
    return {"decode": _decode_bytes, "encode": _encode_bytes}[way](decoder, size, value, tiled=tiled)


def _pixel_bytes(decoder: Part, size: tuple[int, int], value: int, strips: float | None) -> int:
    pixels = size[0] * size[1]
    image = pixels * 3 * (value + 4)  # the tensor, and the picture made from it
    maps = pixels * decoder.width * value
    whole = int(maps * DECODING) + _FIXED
    return image + (whole if strips is None else min(whole, int(maps * strips) + _STRIP))
