"""What each engine adds to the shared course of a job (:mod:`.staged`): its device, its memory and its families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from locara_sidecar.engine.runtime import named
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import memory
from locara_sidecar.machine.supported import ENGINES, FAMILIES

if TYPE_CHECKING:
    import contextlib

    from locara_sidecar.engine.drawing.family import Array, Family
    from locara_sidecar.engine.runtime import Control, Emit, PreparedModel
    from locara_sidecar.ipc.frames import ModelSpec, PrepareSpec
    from locara_sidecar.machine.machine import Machine
    from locara_sidecar.machine.plan import Limits


class Backend(ABC):
    """The part of a runtime that differs between engines."""

    name: ClassVar[str]
    device: str
    note: str | None = None
    """As in :class:`~locara_sidecar.engine.runtime.Runtime`."""

    # --- models --------------------------------------------------------------------------

    @abstractmethod
    def open_family(self, model: ModelSpec, precision: str, quantization: str, control: Control) -> Family:
        """Open the model's folder with the class that :meth:`family_class` returns; no option of the model is ``auto``.

        :raises EngineError: EngineUnavailable, ModelIncomplete or IntegrityError.
        """

    @abstractmethod
    def choose_precision(self, asked: str) -> str:
        """Return the name of the compute type. ``auto`` is the fastest one that works reliably on the device."""

    def saved_as(self, model: ModelSpec) -> str | None:
        """Return the quantization that the weights were saved in, or None if they can be loaded in any."""
        del model
        return None

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """See :meth:`Runtime.prepare`. Engines that support it override this.

        :raises EngineError: EngineUnavailable.
        """
        del spec, emit, control
        raise self.unavailable(f"prepares no models: {ENGINES[self.name].unprepared}")

    def family_class(self, family: str) -> Any:
        """Return the class that runs a family. It is imported on first use, because that takes a while.

        :raises EngineError: EngineUnavailable if the engine does not run that family.
        """
        row = FAMILIES.get(family)
        if row is None or self.name not in row.adapters:
            raise self.unavailable(f"does not run models of the family {family}")
        return named(row.adapters[self.name])

    def unavailable(self, what: str) -> EngineError:
        """Return an EngineUnavailable whose message is "The … engine" followed by ``what``."""
        return EngineError("EngineUnavailable", f"The {self.name} engine {what}.")

    # --- the device ----------------------------------------------------------------------

    @abstractmethod
    def working(self, control: Control) -> contextlib.AbstractContextManager[None]:
        """Wrap the device work of one job.

        ``control`` can stop it, an out-of-memory error becomes an EngineError, and the device is idle afterwards.
        """

    @abstractmethod
    def is_finite(self, array: Array) -> bool:
        """Whether all values of an array are finite. Waits for the array."""

    @abstractmethod
    def synchronise(self) -> None:
        """Wait until the device has finished all work submitted to it."""

    # --- memory, in bytes ----------------------------------------------------------------

    @abstractmethod
    def machine(self, reserved: int) -> Machine:
        """Return the memory that a plan may use. What this engine already uses counts as available."""

    @abstractmethod
    def release(self) -> None:
        """Return unreferenced memory to the system."""

    def limit(self, limits: Limits) -> None:
        """Limit the allocator to the plan for the next weights, if it supports limits."""
        del limits

    @abstractmethod
    def footprint(self) -> int:
        """Return the memory that the engine uses now, in the process and on the device."""

    def peak_memory(self) -> int:
        """See :meth:`Runtime.peak_memory`."""
        return memory.peak()

    def peak_allocated(self) -> int | None:
        """See :meth:`Runtime.peak_allocated`."""
        return None
