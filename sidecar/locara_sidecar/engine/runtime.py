"""The interface that every engine implements, and the control that the worker hands to it.

A runtime is *driven by* the worker (``engine/worker.py``), on the worker's main thread, one job at a
time. It tells what happened by calling ``emit`` rather than by yielding: diffusers' pipelines own
their loop, and turning them inside out would take a second thread for no gain.

An event is emitted after the work that it tells of is done (device synchronised), not before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from locara_protocol.image_messages import Phase, PreviewDecoder
from locara_sidecar.engine import garbage
from locara_sidecar.ipc.frames import Settled
from locara_sidecar.machine.supported import ENGINES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image as PilImage

    from locara_sidecar.ipc.frames import JobSpec, LoadSpec, PrepareSpec


class JobCancelled(BaseException):
    """Raised by :meth:`Control.checkpoint` inside a runtime; a BaseException so that no library's
    ``except Exception`` swallows it."""


class Control(Protocol):
    """What a runtime calls while it works."""

    def checkpoint(self) -> None:
        """Note progress and stop here if asked to; cheap enough for every transformer block.

        :raises JobCancelled: when the job has been cancelled.
        """
        ...


class PhaseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A phase begins (loading, encoding, denoising, decoding) for image ``image`` (1-based)."""

    phase: Phase
    image: int
    fraction: float = 0.0


class StepEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A denoising step is finished. ``x0`` is the predicted clean latent in the runtime's own array type,
    as its :meth:`Runtime.preview` takes it."""

    image: int
    step: int
    steps: int
    x0: Any


class ImageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An image is finished: RGB pixels, and what ``auto`` came to (it belongs to the file's metadata)."""

    image: int
    seed: int
    pixels: Any  # PIL.Image.Image, mode RGB
    settled: Settled


RuntimeEvent = PhaseEvent | StepEvent | ImageEvent
Emit = Callable[[RuntimeEvent], None]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished job tells: what really ran (``auto`` resolved) and warnings as (kind, message)."""

    settled: Settled
    warnings: list[tuple[str, str]]


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model came to; never ``auto``. ``memory``: bytes that the engine takes with it, in the process and
    on the device."""

    quantization: str
    precision: str
    memory: int


class PreparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing came to, as :class:`~locara_sidecar.ipc.frames.Prepared` tells it."""

    quantization: str
    precision: str
    components: list[str]
    there: str | None = None


class Runtime(Protocol):
    """One engine: it owns at most one loaded model and runs one job at a time.

    There is no verb for unloading: the daemon ends the process, which is what really gives memory back.
    """

    name: str
    device: str
    note: str | None
    """A sentence about the device that the user should know, as :class:`~locara_sidecar.ipc.frames.Ready` has it."""

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """Load the model of ``spec``, so that a job that asks for the same one finds it loaded. Emits loading phases
        only, and none where nothing has to be loaded.

        :raises JobCancelled: from a checkpoint; the runtime is ready for the next job afterwards.
        :raises EngineError: for failures with a name, as :meth:`generate` would have them.
        """
        ...

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """Load what is not loaded, make every image of ``spec``, emit what happens.

        :raises JobCancelled: from a checkpoint; the runtime is ready for the next job afterwards.
        :raises EngineError: for failures with a name.
        """
        ...

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """Write what quantizing changes in the model of ``spec`` to ``spec.into``, so that a later load reads it as it
        is. Emits loading phases only.

        :raises JobCancelled: from a checkpoint; what was written so far is the caller's to delete.
        :raises EngineError: EngineUnavailable where the engine cannot, InsufficientDisk, or as :meth:`load`.
        """
        ...

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """Decode a step's ``x0`` to a small RGB picture, sides at most ``max_side``; None when the mode is not
        available for this model. Never changes the state of the running job."""
        ...

    def peak_memory(self) -> int:
        """The process's peak footprint in bytes as the operating system counts it."""
        ...

    def peak_allocated(self) -> int | None:
        """What the arrays took at their height, in bytes as the engine's own allocator counts them: no leftovers, no
        libraries. None where it does not count."""
        ...


def create(engine: str, scratch: str, settings: Mapping[str, str]) -> Runtime:
    """Import an engine and make its runtime: nothing heavy is imported before this.

    :param scratch: a folder that may be written to.
    :param settings: the engine's own, by name.
    :raises ImportError: for an engine that is not known, or lacks a package.
    """
    if engine not in ENGINES:
        raise ImportError(f"no engine is named {engine}", name=f"the {engine} engine")
    with garbage.importing():
        return named(ENGINES[engine].runtime)(scratch, settings)


def named(place: str) -> Any:
    """What a row of ``machine/supported.py`` names as ``module:Class``."""
    module, _, name = place.partition(":")
    full = f"locara_sidecar.engine.{module}"
    if full not in sys.modules:
        with garbage.importing():
            importlib.import_module(full)
    return getattr(sys.modules[full], name)
