"""Keep one model open and warm, whatever the engine, with the quantization of its memory plan.

Its key is made of its folders, digest, precision and quantization. ``engine/drawing/staged.py`` decides which of its
components are loaded.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from locara_sidecar.engine.drawing import drawn_sizes
from locara_sidecar.engine.runtime import Control, Emit, PhaseEvent
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine import memory
from locara_sidecar.machine import plan as plans

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_sidecar.engine.drawing.backend import Backend
    from locara_sidecar.engine.drawing.family import Family
    from locara_sidecar.ipc.frames import ModelSpec
    from locara_sidecar.machine.machine import Machine
    from locara_sidecar.machine.plan import Plan, PlanRequest

_CLIP_TOKENS = 77
_logger = logging.getLogger(__name__)


class WarmKey(NamedTuple):
    """What two jobs must have in common to share a loaded model; nothing in it is ``auto``."""

    folders: tuple[str, ...]
    digest: str
    precision: str
    quantization: str

    @classmethod
    def of(cls, model: ModelSpec, precision: str, quantization: str) -> Self:
        """Return the key of a model with that precision and quantization."""
        return cls(model.folders(prepared=False), model.digest, precision, quantization)


class Opened(NamedTuple):
    """A model whose folder is open; its components may or may not be loaded."""

    key: WarmKey
    family: Family


class ModelRequest(NamedTuple):
    """What a job or a load needs from the machine."""

    model: ModelSpec
    width: int
    height: int
    guided: bool = True
    references: tuple[tuple[int, int], ...] = ()
    tiling: str = "auto"


class WarmModel:
    """The one model that an engine has open."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.opened: Opened | None = None
        self.tight: str | None = None
        """A warning if the last plan needs more memory than is free."""

    def check(self, model: ModelSpec, scheduler: str, control: Control, size: tuple[int, int] | None = None) -> None:
        """Open the model's folder as a job would, and close it again.

        No weights are read, and the model that is open stays open.

        :param scheduler: the catalogue's name of the scheduler to use.
        :param size: the default width and height in pixels.
        :raises EngineError: EngineUnavailable, ModelIncomplete or IntegrityError.
        """
        bits = self._backend.saved_as(model) or "none"
        family = self._backend.open_family(model, self._backend.choose_precision(model.precision), bits, control)
        self.require_scheduler(family, scheduler)
        family.use_scheduler(scheduler)
        family.require_fit()
        if size is not None:
            drawn_sizes.require_default(family, *size)

    def require_scheduler(self, family: Family, scheduler: str) -> None:
        """Require that the family supports a scheduler.

        :raises EngineError: EngineUnavailable, naming those that the engine supports.
        """
        if scheduler not in family.schedulers:
            known = ", ".join(sorted(family.schedulers))
            raise self._backend.unavailable(f"does not run the scheduler {scheduler}; with this model it runs {known}")

    def choose_scheduler(self, family: Family, model: ModelSpec, scheduler: str) -> None:
        """Select the ``scheduler`` that a job asks for.

        If it does not work with the model's files but another one does, the job can change it: InvalidParams.

        :raises EngineError: EngineUnavailable, or InvalidParams with those that work.
        """
        self.require_scheduler(family, scheduler)
        try:
            family.use_scheduler(scheduler)
        except EngineError as fault:
            asked = model.schedulers or sorted(family.schedulers)
            if not (allowed := [name for name in asked if name in family.schedulers and _runs(family, name)]):
                raise
            text = f"The installed {model.id} cannot run the scheduler {scheduler}: {fault.message}"
            raise EngineError(
                "InvalidParams",
                f"{text} It can run {', '.join(allowed)}.",
                path="$.options.scheduler",
                allowed=allowed,
            ) from fault

    # --- which model is open -------------------------------------------------------------

    def make_room(self, needed: int, reserved: int) -> None:
        """Make sure that there is main memory to decode a picture, closing the open model if it is in the way.

        :param needed: bytes.
        :param reserved: bytes that other daemons' engines hold or were promised.
        :raises EngineError: InsufficientMemory with the figures.
        """
        if self.opened is not None and needed > self._room(reserved):
            self.opened = None
            self._backend.release()
        plans.require_room(needed, self._room(reserved))

    def _room(self, reserved: int) -> int:
        machine = self._backend.machine(reserved)
        if machine.kind == "gpu":  # others may have reserved its memory, but pictures are decoded in main memory
            machine = machines.of_engine(unified=False, reserved=0)
        return plans.room(machine, memory.resident())

    def ready(
        self, demand: ModelRequest, emit: Emit, control: Control, require: Callable[[Family], None] = lambda _: None
    ) -> tuple[Opened, Plan]:
        """Open the model with the quantization of its plan. ``auto`` keeps the current quantization if it fits.

        :param require: rejects options that the model does not support, before memory is planned.
        :raises EngineError: InsufficientMemory, EngineUnavailable, or what opening raises.
        """
        model, current = demand.model, self.opened
        if model.quantization not in ("auto", *plans.QUANTIZATIONS):
            raise self._backend.unavailable(f"does not know the quantization '{model.quantization}'")
        precision = self._backend.choose_precision(model.precision)
        if model.quantization == "auto" and (saved := self._backend.saved_as(model)) is not None:
            model = msgspec.structs.replace(model, quantization=saved)
        forms = {form.quantization: form.path for form in model.prepared if form.precision == precision}
        # for auto, the headers of a prepared form serve as well as those of the model itself
        first = next(iter(forms), "none") if model.quantization == "auto" else model.quantization
        key = WarmKey.of(model, precision, first)
        if model.quantization == "auto" and current is not None and current.key[:3] == key[:3]:
            key = current.key
        family = self._open(model, key, emit, control)
        require(family)
        ask = plans.PlanRequest(
            width=demand.width,
            height=demand.height,
            precision=precision,
            quantization=model.quantization,
            tiling=demand.tiling,
            guided=demand.guided and family.negative_prompt,
            references=demand.references,
            text_tokens=model.max_sequence_length + _CLIP_TOKENS,
            prepared=frozenset(forms),
        )
        machine = self._backend.machine(model.reserved)
        plan = self._plan(family, ask, key.quantization, machine)
        self.tight = plans.tight(plan, machine)
        _logger.info("memory plan: %s", plan)
        self._backend.limit(plans.limits(plan, machine))
        self._open(model, key._replace(quantization=plan.quantization), emit, control)
        assert self.opened is not None
        return self.opened, plan

    def _plan(self, family: Family, ask: PlanRequest, current: str, machine: Machine) -> Plan:
        """Choose a plan.

        :param current: the quantization that the family is open with.
        """
        plan: Plan | None = None
        if not family.missing({family.denoiser}):
            plan = plans.choose(family.parts, msgspec.structs.replace(ask, quantization=current), machine)
        return plan or plans.require(family.parts, ask, machine)

    def _open(self, model: ModelSpec, key: WarmKey, emit: Emit, control: Control) -> Family:
        """Return the model of ``key``: the open one, or else open it in place of that one."""
        if self.opened is None or self.opened.key != key:
            emit(PhaseEvent(phase="loading", image=1))
            if self.opened is not None:
                self.opened = None
                self._backend.release()
            best = _best_form(model, key)
            self.opened = Opened(key, self._backend.open_family(best, key.precision, key.quantization, control))
        return self.opened.family


def _runs(family: Family, scheduler: str) -> bool:
    try:
        family.use_scheduler(scheduler)
    except EngineError:
        return False
    return True


def _best_form(model: ModelSpec, key: WarmKey) -> ModelSpec:
    """Return the model in the form prepared for ``key``, if any: same values, less to read, nothing to compute."""
    wanted = key.quantization, key.precision
    paths = (form.path for form in model.prepared if (form.quantization, form.precision) == wanted)
    return msgspec.structs.replace(model, path=next(paths, model.path))
