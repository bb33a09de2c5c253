"""What an engine adds to the order of a job that all share (:mod:`.staged`): its device, its memory, its families."""

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
    """One engine's."""

    name: ClassVar[str]
    device: str
    note: str | None = None
    """As :class:`~locara_sidecar.engine.runtime.Runtime` has them."""

    # --- models --------------------------------------------------------------------------

    @abstractmethod
    def open_family(self, model: ModelSpec, precision: str, quantization: str, control: Control) -> Family:
        """Open the model's folder with the class that :meth:`family_class` gives; nothing of the model is ``auto``.

        :raises EngineError: EngineUnavailable, ModelIncomplete or IntegrityError.
        """

    @abstractmethod
    def choose_precision(self, asked: str) -> str:
        """The computing type's name; ``auto`` is the fastest one that is sound on the device."""

    def saved_as(self, model: ModelSpec) -> str | None:
        """The bits that a folder's weights were saved in; None for weights that can be loaded in any."""
        del model
        return None

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """See :meth:`Runtime.prepare`; an engine that can has its own.

        :raises EngineError: EngineUnavailable.
        """
        del spec, emit, control
        raise self.unavailable(f"prepares no models: {ENGINES[self.name].unprepared}")

    def family_class(self, family: str) -> Any:
        """The class that runs a family; imported when first used, because that takes a while.

        :raises EngineError: EngineUnavailable for a family that the engine does not run.
        """
        row = FAMILIES.get(family)
        if row is None or self.name not in row.adapters:
            raise self.unavailable(f"does not run models of the family {family}")
        return named(row.adapters[self.name])

    def unavailable(self, what: str) -> EngineError:
        """EngineUnavailable: the engine ``what``."""
        return EngineError("EngineUnavailable", f"The {self.name} engine {what}.")

    # --- the device ----------------------------------------------------------------------

    @abstractmethod
    def working(self, control: Control) -> contextlib.AbstractContextManager[None]:
        """Where the device works for one job: ``control`` can stop it, out of memory gets its name, and the device is
        idle at the end."""

    @abstractmethod
    def is_finite(self, array: Array) -> bool:
        """Whether an array holds numbers only; waits for it."""

    @abstractmethod
    def synchronise(self) -> None:
        """Wait until the device has done everything that it was given."""

    # --- memory, in bytes ----------------------------------------------------------------

    @abstractmethod
    def machine(self, reserved: int) -> Machine:
        """The memory that a plan may use; what the engine has already counts as available."""

    @abstractmethod
    def release(self) -> None:
        """Give memory that nothing refers to any more back to the system."""

    def limit(self, limits: Limits) -> None:
        """Have the allocator keep to a plan, the one that the next weights are loaded for; where it can be told."""
        del limits

    @abstractmethod
    def footprint(self) -> int:
        """What the engine takes now, in the process and on the device."""

    def peak_memory(self) -> int:
        """See :meth:`Runtime.peak_memory`."""
        return memory.peak()

    def peak_allocated(self) -> int | None:
        """See :meth:`Runtime.peak_allocated`."""
        return None
