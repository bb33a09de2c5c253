"""The MLX engine: what :class:`~locara_sidecar.engine.staged.StagedRuntime` leaves to it."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import mlx.core as mx

from locara_sidecar.engine import machine, memory
from locara_sidecar.engine.mlx_engine import device, quantize
from locara_sidecar.engine.mlx_engine.family import OpenContext
from locara_sidecar.engine.mlx_engine.pace import Checkpoints
from locara_sidecar.engine.staged import StagedRuntime

if TYPE_CHECKING:
    from collections.abc import Generator

    from locara_sidecar.engine.family import Family
    from locara_sidecar.engine.frames import ModelSpec
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.engine.plan import Limits
    from locara_sidecar.engine.runtime import Control
    from locara_sidecar.engine.staged import Key

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
        return machine.of_engine(unified=self.device == "metal", reserved=reserved)

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
        mx.set_memory_limit(limits.memory)
        mx.set_cache_limit(limits.cache)

    def _footprint(self) -> int:
        # on Metal the system's figure has it all; on CUDA the device's memory comes on top
        return memory.resident() + (mx.get_active_memory() + mx.get_cache_memory() if self.device == "cuda" else 0)

    def peak_memory(self) -> int:
        return memory.peak() + (mx.get_peak_memory() if self.device == "cuda" else 0)

    def peak_allocated(self) -> int:
        return mx.get_peak_memory()
