"""The MLX engine: what :class:`~locara_sidecar.engine.staged.StagedRuntime` leaves to it."""

from __future__ import annotations

import contextlib
import errno
import gc
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import mlx.core as mx

from locara_sidecar.engine import machine as machines
from locara_sidecar.engine import memory
from locara_sidecar.engine import plan as plans
from locara_sidecar.engine.mlx_engine import device, quantize
from locara_sidecar.engine.mlx_engine.family import OpenContext
from locara_sidecar.engine.mlx_engine.pace import Checkpoints
from locara_sidecar.engine.model_folder import Progress
from locara_sidecar.engine.runtime import EngineFault, PhaseEvent, PreparedModel
from locara_sidecar.engine.staged import StagedRuntime
from locara_sidecar.engine.warm import Key

if TYPE_CHECKING:
    from collections.abc import Generator

    from locara_sidecar.engine.family import Family
    from locara_sidecar.engine.frames import ModelSpec, PrepareSpec
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.engine.mlx_engine.family import MlxFamily
    from locara_sidecar.engine.plan import Limits
    from locara_sidecar.engine.runtime import Control, Emit

_FAMILY = "locara_sidecar.engine.mlx_engine."


class MlxRuntime(StagedRuntime):
    """:class:`~locara_sidecar.engine.runtime.Runtime` on MLX alone: no torch, no diffusers, no transformers."""

    name = "mlx"
    families: ClassVar = {
        "sd3": (_FAMILY + "sd3", "Sd3"),
        "flux": (_FAMILY + "flux1", "Flux1"),
        "flux-kontext": (_FAMILY + "flux1", "Flux1Kontext"),
        "sdxl": (_FAMILY + "sdxl", "Sdxl"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.device = device.choose_device()
        self._checkpoints = Checkpoints()

    @contextlib.contextmanager
    def _working(self, control: Control) -> Generator[None]:
        try:
            with self._checkpoints.armed(control):
                yield
        except (RuntimeError, MemoryError) as error:
            if fault := device.memory_fault(error):
                raise fault from error
            raise
        finally:
            mx.synchronize()

    def _choose_precision(self, asked: str) -> str:
        return device.choose_precision(asked, self.device)

    def _machine(self, reserved: int) -> Machine:
        return machines.of_engine(unified=self.device == "metal", reserved=reserved)

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """See :meth:`Runtime.prepare`. The model that is open stays as it is.

        :raises EngineFault: EngineUnavailable for what has nothing to prepare, InsufficientDisk and InsufficientMemory
            with the figures before anything is read, ModelIncomplete or IntegrityError.
        :raises JobCancelled: between two tensors or files.
        """
        model, into = spec.model, Path(spec.into)
        precision, quantization = self._choose_precision(model.precision), model.quantization
        for form in model.prepared:
            if (form.quantization, form.precision) == (quantization, precision):
                return PreparedModel(quantization=quantization, precision=precision, components=[], there=form.path)
        if self._saved_as(model) is not None:
            raise self._unavailable("cannot prepare a model that was published quantized")
        with self._working(control):
            emit(PhaseEvent(phase="loading", image=1))
            key = Key(model.path, model.digest, precision, quantization)
            family = cast("MlxFamily", self._open_family(model, key, control))
            sizes = family.prepared_sizes()
            if not sizes:
                raise self._unavailable(f"finds nothing to quantize in {model.id}")
            self._require_room(family, model, key, sum(sizes.values()), into)

            def report(fraction: float) -> None:
                emit(PhaseEvent(phase="loading", image=1, fraction=fraction))

            try:
                family.prepare(sizes, into, Progress(family.size(sizes), report, control.checkpoint))
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise _no_room(sum(sizes.values()), into) from error
                name = errno.errorcode.get(error.errno or 0, "EIO")
                raise EngineFault(
                    "StorageError", f"The prepared model could not be written ({name}).", errno=name
                ) from error
        return PreparedModel(quantization=quantization, precision=precision, components=list(sizes))

    def _require_room(self, family: MlxFamily, model: ModelSpec, key: Key, size: int, into: Path) -> None:
        """See to it that preparing has its memory and keeps to it.

        :raises EngineFault: when memory or disk will not do.
        """
        machine = self._machine(model.reserved)
        needed = plans.preparing(family.parts, cast("Any", key.quantization), key.precision, machine.kind)
        if needed > (available := machines.limit(machine)):
            text = f"Preparing {model.id} needs {needed} bytes of memory and {available} can be had."
            raise EngineFault("InsufficientMemory", text, needed=needed, available=available, suggestions=[])
        if size > shutil.disk_usage(into).free:
            raise _no_room(size, into)
        self._limit(plans.limits_of_preparing(needed, machine))

    def _saved_as(self, model: ModelSpec) -> str | None:
        return quantize.prepared_as(Path(model.path))

    def _open_family(self, model: ModelSpec, key: Key, control: Control) -> Family:
        del control
        if key.quantization not in quantize.BITS:
            raise self._unavailable(f"does not know the quantization '{key.quantization}'")
        context = OpenContext(
            folder=Path(model.path),
            dtype=device.dtype_of(key.precision),
            sides=model.sides,
            checkpoints=self._checkpoints,
            bits=quantize.BITS[key.quantization],
        )
        return cast("Family", self._family_class(model.family).open(context))

    def _is_finite(self, array: Any) -> bool:
        return bool(mx.isfinite(array).all().item())

    def _synchronise(self) -> None:
        mx.synchronize()

    def _release(self) -> None:
        gc.collect()
        mx.clear_cache()

    def _limit(self, limits: Limits) -> None:
        device.keep_to(limits)

    def _footprint(self) -> int:
        # on Metal the system's figure has it all; on CUDA the device's memory comes on top
        return memory.resident() + (mx.get_active_memory() + mx.get_cache_memory() if self.device == "cuda" else 0)

    def peak_memory(self) -> int:
        return memory.peak() + (mx.get_peak_memory() if self.device == "cuda" else 0)

    def peak_allocated(self) -> int:
        return mx.get_peak_memory()


def _no_room(needed: int, folder: Path) -> EngineFault:
    available = shutil.disk_usage(folder).free
    text = f"The prepared model needs {needed} bytes of the disk; {available} are free."
    return EngineFault("InsufficientDisk", text, needed=needed, available=available)
