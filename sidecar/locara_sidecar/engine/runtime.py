"""The interface that every engine implements, and the control object that the worker passes to it.

The worker (``engine/worker.py``) drives a runtime on its main thread, one job at a time. The runtime reports progress
by calling ``emit`` rather than by yielding: diffusers' pipelines own their loop, and inverting that control would take
a second thread for no gain.

An event is emitted only after the work it describes is done, with the device synchronised.
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
    """Raised by :meth:`Control.checkpoint` inside a runtime.

    Derives from BaseException so that no library's ``except Exception`` swallows it.
    """


class Control(Protocol):
    """What a runtime calls while it works."""

    def checkpoint(self) -> None:
        """Record progress, and stop here if the job was cancelled. Cheap enough to call in every transformer block.

        :raises JobCancelled: if the job was cancelled.
        """
        ...


class PhaseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A phase (loading, encoding, denoising, decoding) begins for image ``image`` (1-based)."""

    phase: Phase
    image: int
    fraction: float = 0.0


class StepEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A denoising step is finished.

    ``x0`` is the predicted clean latent in the runtime's own array type, as :meth:`Runtime.preview` takes it.
    """

    image: int
    step: int
    steps: int
    x0: Any


class ImageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An image is finished: RGB pixels, and the values that ``auto`` resolved to, for the file's metadata."""

    image: int
    seed: int
    pixels: Any  # PIL.Image.Image, mode RGB
    settled: Settled


RuntimeEvent = PhaseEvent | StepEvent | ImageEvent
Emit = Callable[[RuntimeEvent], None]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a finished job: the options it ran with (``auto`` resolved) and warnings as (kind, message)."""

    settled: Settled
    warnings: list[tuple[str, str]]


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """How a model was loaded; no value is ``auto``.

    ``memory``: bytes that the engine uses with the model loaded, in the process and on the device.
    """

    quantization: str
    precision: str
    memory: int


class PreparedModel(msgspec.Struct, frozen=True, kw_only=True):
    """The result of preparing a model; see :class:`~locara_sidecar.ipc.frames.Prepared`."""

    quantization: str
    precision: str
    components: list[str]
    there: str | None = None


class Runtime(Protocol):
    """One engine. It holds at most one loaded model and runs one job at a time.

    There is no unload method: only ending the process reliably frees the memory, and the daemon does that.
    """

    name: str
    device: str
    note: str | None
    """A sentence about the device for the user; see :class:`~locara_sidecar.ipc.frames.Ready`."""

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """Load the model of ``spec``, so that a later job with the same model finds it loaded.

        Emits loading phases only, and none if the model is already loaded.

        :raises JobCancelled: from a checkpoint; the runtime is ready for the next job afterwards.
        :raises EngineError: for known failures, as in :meth:`generate`.
        """
        ...

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """Load whatever is not loaded yet, make every image of ``spec`` and emit events along the way.

        :raises JobCancelled: from a checkpoint; the runtime is ready for the next job afterwards.
        :raises EngineError: for known failures.
        """
        ...

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """Write the quantized weights of the model of ``spec`` to ``spec.into``, so that later loads only read them.

        Emits loading phases only.

        :raises JobCancelled: from a checkpoint; the caller deletes what was written so far.
        :raises EngineError: EngineUnavailable if the engine does not support this, InsufficientDisk, or as
            :meth:`load`.
        """
        ...

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """Decode a step's ``x0`` to a small RGB picture, at most ``max_side`` pixels on each side.

        Never changes the state of the running job. Returns None if this model does not support ``mode``.
        """
        ...

    def peak_memory(self) -> int:
        """Peak memory of the process in bytes, as reported by the operating system."""
        ...

    def peak_allocated(self) -> int | None:
        """Peak memory of arrays in bytes, as counted by the engine's own allocator.

        Excludes the allocator's cache and libraries. None if the allocator does not count.
        """
        ...


def create(engine: str, scratch: str, settings: Mapping[str, str]) -> Runtime:
    """Import an engine and create its runtime. Nothing heavy is imported before this call.

    :param scratch: a writable folder.
    :param settings: the engine's own settings, by name.
    :raises ImportError: if the engine is unknown or a package it needs is missing.
    """
    if engine not in ENGINES:
        raise ImportError(f"no engine is named {engine}", name=f"the {engine} engine")
    with garbage.importing():
        return named(ENGINES[engine].runtime)(scratch, settings)


def named(place: str) -> Any:
    """Import and return the object that a row of ``machine/supported.py`` names as ``module:Class``."""
    module, _, name = place.partition(":")
    full = f"locara_sidecar.engine.{module}"
    if full not in sys.modules:
        with garbage.importing():
            importlib.import_module(full)
    return getattr(sys.modules[full], name)
