"""The MLX engine's part of :class:`~locara_sidecar.engine.drawing.staged.StagedRuntime`."""

from __future__ import annotations

import contextlib
import errno
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx

from locara_sidecar.engine.drawing.backend import Backend
from locara_sidecar.engine.drawing.staged import StagedRuntime
from locara_sidecar.engine.folder.model_folder import Progress
from locara_sidecar.engine.mlx_engine import device
from locara_sidecar.engine.mlx_engine.families.family import OpenContext
from locara_sidecar.engine.mlx_engine.kernels import group_statistics
from locara_sidecar.engine.mlx_engine.pace import Checkpoints
from locara_sidecar.engine.mlx_engine.tensors import quantize
from locara_sidecar.engine.runtime import PhaseEvent, PreparedModel
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import disk_space, memory
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine import plan as plans

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from locara_sidecar.engine.mlx_engine.families.family import MlxFamily
    from locara_sidecar.engine.runtime import Control, Emit
    from locara_sidecar.ipc.frames import ModelSpec, PrepareSpec
    from locara_sidecar.machine.machine import Machine
    from locara_sidecar.machine.plan import Limits


class MlxBackend(Backend):
    """:class:`~locara_sidecar.engine.drawing.backend.Backend` on MLX alone: no torch, no diffusers, no transformers.

    :param settings: ``prefer_float16``, with any value: ``auto`` means float16 on a GPU without bfloat16.
    """

    name = "mlx"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.device = device.choose_device()
        self._checkpoints = Checkpoints()
        self._narrow = "prefer_float16" in (settings or {}) and device.lacks_bfloat16(self.device)
        if self._narrow:
            self.note = "Its GPU has no bfloat16, so precision auto is float16 (--prefer-float16)."

    @contextlib.contextmanager
    def working(self, control: Control) -> Generator[None]:
        try:
            with self._checkpoints.armed(control):
                yield
            mx.synchronize()
        except BaseException as error:
            device.settle()
            if isinstance(error, (RuntimeError, MemoryError)) and (fault := device.fault(error)):
                raise fault from error
            raise
        finally:
            device.keep_resident(self.device, 0)

    def choose_precision(self, asked: str) -> str:
        return device.choose_precision(asked, self.device, narrow=self._narrow)

    def machine(self, reserved: int) -> Machine:
        found = device.working_set(self.device)
        return machines.of_engine(unified=self.device == "metal", reserved=reserved, working_set=found)

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """See :meth:`Runtime.prepare`. The open model stays as it is.

        :raises EngineError: EngineUnavailable if there is nothing to prepare; InsufficientDisk and InsufficientMemory
            with the figures, before anything is read; ModelIncomplete or IntegrityError.
        :raises JobCancelled: between two tensors or files.
        """
        model, into = spec.model, Path(spec.into)
        precision, quantization = self.choose_precision(model.precision), model.quantization
        for form in model.prepared:
            if (form.quantization, form.precision) == (quantization, precision):
                return PreparedModel(quantization=quantization, precision=precision, components=[], there=form.path)
        if self.saved_as(model) is not None:
            raise self.unavailable("cannot prepare a model that was published in quantized form")
        with self.working(control):
            emit(PhaseEvent(phase="loading", image=1))
            family = self.open_family(model, precision, quantization, control)
            sizes = family.prepared_sizes()
            if not sizes:
                raise self.unavailable(f"finds nothing to quantize in {model.id}")
            self._require_room(family, model, precision, sum(sizes.values()), into)

            def report(fraction: float) -> None:
                emit(PhaseEvent(phase="loading", image=1, fraction=fraction))

            try:
                family.prepare(sizes, into, Progress(family.size(sizes), report, control.checkpoint))
            except OSError as error:
                if error.errno in disk_space.FULL:
                    raise _no_room(sum(sizes.values()), into, error.errno) from error
                name = errno.errorcode.get(error.errno or 0, "EIO")
                raise EngineError(
                    "StorageError", f"The prepared model could not be written ({name}).", errno=name
                ) from error
        return PreparedModel(quantization=quantization, precision=precision, components=list(sizes))

    def _require_room(self, family: MlxFamily, model: ModelSpec, precision: str, size: int, into: Path) -> None:
        """Require enough memory and disk space for preparing, and limit the allocator to that memory.

        :raises EngineError: InsufficientMemory or InsufficientDisk.
        """
        machine = self.machine(model.reserved)
        needed = plans.preparing(family.parts, cast("Any", model.quantization), precision, machine.kind)
        if needed > (available := machines.limit(machine)):
            text = f"Preparing {model.id} needs {needed} bytes of memory, but only {available} are available."
            raise EngineError("InsufficientMemory", text, needed=needed, available=available, suggestions=[])
        if size > disk_space.free(into):
            raise _no_room(size, into)
        self.limit(plans.limits_of_preparing(needed, machine))

    def saved_as(self, model: ModelSpec) -> str | None:
        return quantize.prepared_as(Path(model.path))

    def open_family(self, model: ModelSpec, precision: str, quantization: str, control: Control) -> MlxFamily:
        del control
        if quantization not in quantize.BITS:
            raise self.unavailable(f"does not know the quantization '{quantization}'")
        dtype = device.dtype_of(precision)
        for of in {dtype, mx.float32 if dtype == mx.float16 else dtype}:  # autoencoders may be widened
            group_statistics.try_out(self.device, of)
        context = OpenContext(
            folder=Path(model.path),
            dtype=dtype,
            sides=model.sides,
            checkpoints=self._checkpoints,
            bits=quantize.BITS[quantization],
        )
        family: MlxFamily = self.family_class(model.family).open(context)
        family.try_kernels(self.device)
        return family

    def is_finite(self, array: Any) -> bool:
        return bool(mx.isfinite(array).all().item())

    def synchronise(self) -> None:
        mx.synchronize()

    def release(self) -> None:
        gc.collect()
        mx.clear_cache()

    def limit(self, limits: Limits) -> None:
        device.keep_to(limits)
        device.keep_resident(self.device, limits.memory)

    def footprint(self) -> int:
        # on Metal the system's figure includes everything; on CUDA the device's memory is separate
        return memory.resident() + (mx.get_active_memory() + mx.get_cache_memory() if self.device == "cuda" else 0)

    def peak_memory(self) -> int:
        return memory.peak() + (mx.get_peak_memory() if self.device == "cuda" else 0)

    def peak_allocated(self) -> int:
        return mx.get_peak_memory()


def create(scratch: str = "", settings: Mapping[str, str] | None = None) -> StagedRuntime:
    """Create the engine's runtime. MLX writes no files.

    :raises EngineError: EngineUnavailable if the device cannot compute.
    """
    del scratch
    device.require_computing()
    return StagedRuntime(MlxBackend(settings))


def _no_room(needed: int, folder: Path, number: int | None = errno.ENOSPC) -> EngineError:
    """Return the error for a disk without room.

    :param number: the error number of the write that failed.
    """
    available = disk_space.free(folder)
    text = f"The prepared model cannot be written. {disk_space.why_full(number, folder, needed, available)}"
    return EngineError("InsufficientDisk", text, needed=needed, available=available)
