"""One model open and kept warm, whatever the engine: which one, and with the bits that its memory plan has.

Path, digest, precision and quantization are its key. What of it is loaded is for ``engine/staged.py``.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from locara_sidecar.engine import plan as plans
from locara_sidecar.engine.runtime import Control, Emit, EngineFault, PhaseEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_sidecar.engine.family import Family
    from locara_sidecar.engine.frames import ModelSpec
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.engine.plan import Ask, Limits, Plan

_CLIP_TOKENS = 77
_logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What decides whether two jobs share a loaded model; nothing of it is ``auto``."""

    path: str
    digest: str
    precision: str
    quantization: str


class Opened(NamedTuple):
    """A model whose folder is open; what of it is loaded is its own business."""

    key: Key
    family: Family


class Demand(NamedTuple):
    """What a job or a load asks of the machine."""

    model: ModelSpec
    width: int
    height: int
    guided: bool = True
    edits: bool = False
    tiling: str = "auto"


class WarmRuntime(ABC):
    """The part of a :class:`~locara_sidecar.engine.runtime.Runtime` that keeps a model open."""

    name: ClassVar[str]
    families: ClassVar[Mapping[str, tuple[str, str]]]
    """Catalogue family to the module and class that run it; imported when first used, because that takes a while."""
    device: str
    note: str | None = None

    def __init__(self) -> None:
        self._opened: Opened | None = None

    # --- what an engine adds -------------------------------------------------------------

    @abstractmethod
    def _choose_precision(self, asked: str) -> str:
        """The computing type's name; ``auto`` is the fastest one that is sound on the device."""

    @abstractmethod
    def _machine(self, reserved: int) -> Machine:
        """The memory that a plan may use; what the engine has already counts as available."""

    @abstractmethod
    def _open_family(self, model: ModelSpec, key: Key, control: Control) -> Family:
        """Open the model's folder with the class that :meth:`_family_class` gives.

        :raises EngineFault: EngineUnavailable, ModelIncomplete or IntegrityError.
        """

    @abstractmethod
    def _release(self) -> None:
        """Give memory that nothing refers to any more back to the system."""

    def _limit(self, limits: Limits) -> None:
        """Have the allocator keep to a plan, the one that the next weights are loaded for; where it can be told."""
        del limits

    def _saved_as(self, model: ModelSpec) -> str | None:
        """The bits that a folder's weights were saved in; None for weights that can be loaded in any."""
        del model
        return None

    def _family_class(self, family: str) -> Any:
        """:raises EngineFault: EngineUnavailable for a family that the engine does not run."""
        if family not in self.families:
            raise self._unavailable(f"does not run models of the family {family}")
        module, attribute = self.families[family]
        return getattr(importlib.import_module(module), attribute)

    def _unavailable(self, what: str) -> EngineFault:
        return EngineFault("EngineUnavailable", f"The {self.name} engine {what}.")

    # --- which model is open -------------------------------------------------------------

    def _prepare(self, demand: Demand, emit: Emit, control: Control) -> tuple[Opened, Plan]:
        """The model open with the bits of its plan. ``auto`` keeps the bits that it is open with if they fit.

        :raises EngineFault: InsufficientMemory, EngineUnavailable, or what opening raises.
        """
        model, current = demand.model, self._opened
        if model.quantization not in ("auto", *plans.QUANTIZATIONS):
            raise self._unavailable(f"does not know the quantization '{model.quantization}'")
        precision = self._choose_precision(model.precision)
        if model.quantization == "auto" and (saved := self._saved_as(model)) is not None:
            model = msgspec.structs.replace(model, quantization=saved)
        forms = {form.quantization: form.path for form in model.prepared if form.precision == precision}
        # the headers of a prepared form tell auto as much as those of the model itself
        first = next(iter(forms), "none") if model.quantization == "auto" else model.quantization
        key = Key(model.path, model.digest, precision, first)
        if model.quantization == "auto" and current is not None and current.key[:3] == key[:3]:
            key = current.key
        family = self._open(model, key, emit, control)
        ask = plans.Ask(
            width=demand.width,
            height=demand.height,
            precision=precision,
            quantization=model.quantization,
            tiling=demand.tiling,
            guided=demand.guided and family.classifier_free_guidance,
            edits=demand.edits,
            text_tokens=model.max_sequence_length + _CLIP_TOKENS,
            prepared=frozenset(forms),
        )
        machine = self._machine(model.reserved)
        plan = self._plan(family, ask, key.quantization, machine)
        _logger.info("memory plan: %s", plan)
        self._limit(plans.limits(plan, machine))
        self._open(model, key._replace(quantization=plan.quantization), emit, control)
        assert self._opened is not None
        return self._opened, plan

    def _plan(self, family: Family, ask: Ask, current: str, machine: Machine) -> Plan:
        """:param current: the bits that the family is open with."""
        plan: Plan | None = None
        if not family.missing({family.denoiser}):
            plan = plans.choose(family.parts, msgspec.structs.replace(ask, quantization=current), machine)
        return plan or plans.require(family.parts, ask, machine)

    def _open(self, model: ModelSpec, key: Key, emit: Emit, control: Control) -> Family:
        """The model of ``key``: the one that is open, or opened now in place of it."""
        if self._opened is None or self._opened.key != key:
            emit(PhaseEvent(phase="loading", image=1))
            if self._opened is not None:
                self._opened = None
                self._release()
            self._opened = Opened(key, self._open_family(_best_form(model, key), key, control))
        return self._opened.family


def _best_form(model: ModelSpec, key: Key) -> ModelSpec:
    """The model in the form that was prepared for ``key``, where there is one: the same numbers, with less to read and
    nothing to compute."""
    wanted = key.quantization, key.precision
    paths = (form.path for form in model.prepared if (form.quantization, form.precision) == wanted)
    return msgspec.structs.replace(model, path=next(paths, model.path))
