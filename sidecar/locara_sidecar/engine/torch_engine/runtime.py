"""The torch engine: what :class:`~locara_sidecar.engine.staged.StagedRuntime` leaves to it."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from locara_sidecar.engine.staged import StagedRuntime
from locara_sidecar.engine.torch_engine import devices, environment
from locara_sidecar.engine.torch_engine.family import OpenContext
from locara_sidecar.engine.torch_engine.hooks import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Generator

    from locara_sidecar.engine.family import Family
    from locara_sidecar.engine.frames import ModelSpec
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.engine.runtime import Control
    from locara_sidecar.engine.warm import Key

_logger = logging.getLogger(__name__)


class TorchRuntime(StagedRuntime):
    """:class:`~locara_sidecar.engine.runtime.Runtime` on torch and diffusers.

    :param scratch: a folder that the libraries may write caches to.
    :param compiled: compile the denoisers' blocks, where that can be done.
    """

    name = "torch"
    families: ClassVar = {
        "sd3": ("locara_sidecar.engine.torch_engine.sd3", "Sd3"),
        "flux": ("locara_sidecar.engine.torch_engine.flux", "Flux"),
        "flux-kontext": ("locara_sidecar.engine.torch_engine.flux_kontext", "FluxKontext"),
        "sdxl": ("locara_sidecar.engine.torch_engine.sdxl", "Sdxl"),
    }

    def __init__(self, scratch: str, *, compiled: bool = False) -> None:
        super().__init__()
        environment.prepare(scratch)
        environment.import_libraries()
        self.device = devices.choose_device()
        self.note = devices.unused_gpu(self.device)
        if self.note:
            _logger.warning(self.note)
        self._checkpoints = Checkpoints(self.device)
        self._compiled = compiled

    @contextlib.contextmanager
    def _working(self, control: Control) -> Generator[None]:
        try:
            with torch.no_grad(), self._checkpoints.armed(control):
                yield
        except (RuntimeError, MemoryError) as error:
            if fault := devices.memory_fault(error, self.device):
                raise fault from error
            raise
        finally:
            devices.synchronise(self.device)

    def _choose_precision(self, asked: str) -> str:
        return devices.choose_precision(asked, self.device)

    def _machine(self, reserved: int) -> Machine:
        return devices.machine_of(self.device, reserved)

    def _open_family(self, model: ModelSpec, key: Key, control: Control) -> Family:
        context = OpenContext(
            folder=Path(model.path),
            device=self.device,
            dtype=devices.dtype_of(key.precision),
            quantization=key.quantization,
            checkpoints=self._checkpoints,
            checkpoint=control.checkpoint,
            compiled=self._compiles(),
        )
        return cast("Family", self._family_class(model.family).open(context))

    def _compiles(self) -> bool:
        """Whether blocks are to be compiled; found out with the first model, it takes seconds."""
        if self._compiled:
            from locara_sidecar.engine.torch_engine import compiled

            self._compiled = compiled.works(self.device)
        return self._compiled

    def _is_finite(self, array: Any) -> bool:
        return bool(torch.isfinite(array).all().item())

    def _synchronise(self) -> None:
        devices.synchronise(self.device)

    def _release(self) -> None:
        devices.release(self.device)

    def _footprint(self) -> int:
        return devices.footprint(self.device)

    def peak_memory(self) -> int:
        return devices.peak(self.device)
