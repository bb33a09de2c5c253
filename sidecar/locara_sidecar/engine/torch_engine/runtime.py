"""The torch engine's part of :class:`~locara_sidecar.engine.drawing.staged.StagedRuntime`."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from locara_sidecar.engine.drawing.backend import Backend
from locara_sidecar.engine.drawing.staged import StagedRuntime
from locara_sidecar.engine.torch_engine import devices, environment
from locara_sidecar.engine.torch_engine.denoising.hooks import Checkpoints
from locara_sidecar.engine.torch_engine.families.family import OpenContext
from locara_sidecar.engine.torch_engine.waiting import waiting_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from locara_sidecar.engine.drawing.family import Family
    from locara_sidecar.engine.runtime import Control
    from locara_sidecar.ipc.frames import ModelSpec
    from locara_sidecar.machine.machine import Machine

_logger = logging.getLogger(__name__)


class TorchBackend(Backend):
    """:class:`~locara_sidecar.engine.drawing.backend.Backend` on torch and diffusers.

    :param scratch: a folder for the libraries' caches.
    :param settings: ``compile``, with any value: compile the denoiser's blocks if possible.
    """

    name = "torch"

    def __init__(self, scratch: str, settings: Mapping[str, str] | None = None) -> None:
        environment.prepare(scratch)
        environment.import_libraries()
        self.device = devices.choose_device()
        self.note = devices.unused_gpu(self.device)
        if self.note:
            _logger.warning(self.note)
        self._checkpoints = Checkpoints(self.device, waiting_of(self.device))
        self._compiled = "compile" in (settings or {})

    @contextlib.contextmanager
    def working(self, control: Control) -> Generator[None]:
        try:
            with torch.inference_mode(), self._checkpoints.armed(control):
                yield
        except (RuntimeError, MemoryError) as error:
            if fault := devices.memory_fault(error, self.device):
                raise fault from error
            raise
        finally:
            devices.synchronise(self.device)

    def choose_precision(self, asked: str) -> str:
        return devices.choose_precision(asked, self.device)

    def machine(self, reserved: int) -> Machine:
        return devices.machine_of(self.device, reserved)

    def open_family(self, model: ModelSpec, precision: str, quantization: str, control: Control) -> Family:
        context = OpenContext(
            folder=Path(model.path),
            device=self.device,
            dtype=devices.dtype_of(precision),
            quantization=quantization,
            checkpoints=self._checkpoints,
            checkpoint=control.checkpoint,
            compiled=self._compiles(),
        )
        return self.family_class(model.family).open(context)

    def _compiles(self) -> bool:
        """Whether to compile blocks. Determined with the first model, as it takes seconds."""
        if self._compiled:
            from locara_sidecar.engine.torch_engine.denoising import compiled

            self._compiled = compiled.works(self.device)
        return self._compiled

    def is_finite(self, array: Any) -> bool:
        return bool(torch.isfinite(array).all().item())

    def synchronise(self) -> None:
        devices.synchronise(self.device)

    def release(self) -> None:
        devices.release(self.device)

    def footprint(self) -> int:
        return devices.footprint(self.device)

    def peak_memory(self) -> int:
        return devices.peak(self.device)


def create(scratch: str, settings: Mapping[str, str] | None = None) -> StagedRuntime:
    """Create the engine's runtime; see :class:`TorchBackend`."""
    return StagedRuntime(TorchBackend(scratch, settings))
