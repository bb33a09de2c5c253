"""The fake engine: every phase, every event and deterministic pictures, without a model.

It needs only Pillow. A picture depends on the prompt, the negative prompt, the seed and the size. Sizes, steps and
``count`` are obeyed; the x0 previews sharpen from step to step; a cancel takes milliseconds; a model stays "loaded"
once it is. An edit blends such a picture into the source, with ``strength`` as its opacity (half if there is none), and
takes the steps that this strength leaves; the source stays where the mask is black. Of several references it sees a
vertical band each, side by side in their order.

Durations, in milliseconds, are settings of the engine (``EngineClient(settings={"step_ms": "5"})``) or environment
variables of the daemon:

=================================  =======  =======================================================
setting, variable                  default  duration of
=================================  =======  =======================================================
``step_ms``, LOCARA_FAKE_STEP_MS   20       one denoising step
``load_ms``, LOCARA_FAKE_LOAD_MS   40       loading a model
``encode_ms``, …_ENCODE_MS         5        encoding the prompt
``decode_ms``, …_DECODE_MS         10       decoding one image
``start_ms``, …_START_MS           0        starting the process
=================================  =======  =======================================================

Faults are words in the prompt or, for every job, the same words in the setting ``faults`` or the variable
LOCARA_FAKE_FAULTS. PHASE is loading, encoding, denoising or decoding; in the setting or variable also ``start``:

=====================  ============================================================================
``fake:slow=MS``       a step takes MS milliseconds
``fake:load=MS``       loading takes MS milliseconds, even if the model is already loaded
``fake:crash=PHASE``   the process ends with status 70
``fake:abort=PHASE``   … with SIGABRT
``fake:segv=PHASE``    … with SIGSEGV
``fake:kill=PHASE``    … with SIGKILL, as the kernel does when memory is short
``fake:hang=PHASE``    native code that never returns and holds the interpreter lock
``fake:sleep=PHASE``   the same without the lock; ignores cancels
``fake:nan``           the job fails: InvalidOutput
``fake:oom``           the job fails: InsufficientMemory
``fake:error``         the job fails: InternalError, from an exception that quotes its input
``fake:nopreview``     decoding a preview fails
``fake:stderr``        Python, C and a child process print to stdout and stderr in every step
=====================  ============================================================================
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, cast

from PIL import Image

from locara_sidecar.engine.fake_engine import faults, pictures
from locara_sidecar.engine.runtime import (
    Control,
    Emit,
    ImageEvent,
    LoadedModel,
    PhaseEvent,
    PreparedModel,
    StepEvent,
    Summary,
)
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.ipc.frames import Settled
from locara_sidecar.machine.supported import steps_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.ipc.frames import JobSpec, LoadSpec, ModelSpec, PrepareSpec

_DEFAULTS = {"step_ms": 20.0, "load_ms": 40.0, "encode_ms": 5.0, "decode_ms": 10.0, "start_ms": 0.0}
_MEMORY = {"none": 64 << 20, "8bit": 32 << 20, "4bit": 16 << 20}  # bytes that a loaded model claims to use
_SLICE = 0.002  # seconds between two checks of the cancel flag


class FakeRuntime:
    """A :class:`~locara_sidecar.engine.runtime.Runtime` that only pretends.

    :param scratch: a folder of its own; not used.
    :param settings: see the table in the module; they take precedence over the environment.
    """

    name = "fake"
    device = "cpu"
    note: str | None = None

    def __init__(self, scratch: str, settings: Mapping[str, str] | None = None) -> None:
        del scratch
        self._settings = settings or {}
        self._loaded: tuple[str, str, str] | None = None
        self._faults = faults.parse(self._setting("faults") or "")
        time.sleep(self._seconds("start_ms"))
        faults.strike(self._faults, "start")

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """Take ``load_ms`` unless the model is loaded. The reported memory is made up."""
        self._load(spec.model, self._faults, emit, control)
        quantization, precision = _resolved(spec.model)
        return LoadedModel(quantization=quantization, precision=precision, memory=_MEMORY[quantization])

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """See :meth:`Runtime.generate`.

        :raises EngineError: on demand, as are MemoryError and RuntimeError.
        """
        wanted = {**self._faults, **faults.parse(spec.prompt)}
        source = None if spec.edit is None else _source(spec)
        settled = _settled(spec, source)
        self._load(spec.model, wanted, emit, control)
        emit(PhaseEvent(phase="encoding", image=1))
        faults.strike(wanted, "encoding")
        _wait(self._seconds("encode_ms"), control)
        for image in range(1, spec.count + 1):
            self._sample(spec, source, settled, image, wanted, emit, control)
        return Summary(settled=settled, warnings=[] if source is None else list(source.warnings))

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """Fail: a fake model has no files to prepare.

        :raises EngineError: always.
        """
        del spec, emit, control
        raise EngineError("EngineUnavailable", "The fake engine has no models to prepare.")

    def preview(self, x0: object, mode: str, max_side: int) -> tuple[Image.Image, PreviewDecoder] | None:
        """Return ``x0``, which is the picture at latent size, or an exception to raise. Every mode is available."""
        if isinstance(x0, Exception):
            raise x0
        assert isinstance(x0, Image.Image)
        longest = max(x0.size)
        if longest > max_side:
            x0 = x0.resize((max(1, x0.width * max_side // longest), max(1, x0.height * max_side // longest)))
        return x0, cast("PreviewDecoder", mode)

    def peak_memory(self) -> int:
        """Return the peak resident size of the process in bytes, or 0 if the system does not report it."""
        if os.name != "posix":
            return 0
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def peak_allocated(self) -> None:
        """Return None: the fake engine has no allocator of its own."""
        return

    def _load(self, model: ModelSpec, wanted: dict[str, str], emit: Emit, control: Control) -> None:
        key = (model.id, *_resolved(model))
        if key == self._loaded and "load" not in wanted and "loading" not in wanted.values():
            return
        self._loaded = None
        seconds = _milliseconds(wanted.get("load"), self._seconds("load_ms"))
        emit(PhaseEvent(phase="loading", image=1))
        faults.strike(wanted, "loading")
        parts = 4
        for part in range(1, parts + 1):
            _wait(seconds / parts, control)
            emit(PhaseEvent(phase="loading", image=1, fraction=part / parts))
        self._loaded = key

    def _sample(
        self,
        spec: JobSpec,
        source: Source | None,
        settled: Settled,
        image: int,
        wanted: dict[str, str],
        emit: Emit,
        control: Control,
    ) -> None:
        seed = spec.seed + image - 1
        steps = spec.steps
        if source is not None and source.strength is not None:
            steps = steps_at(spec.model.family, source.strength, steps)
        seconds = _milliseconds(wanted.get("slow"), self._seconds("step_ms"))
        emit(PhaseEvent(phase="denoising", image=image))
        picture = pictures.landscape(spec.prompt, spec.negative_prompt, seed, settled.width, settled.height)
        if source is not None:
            picture = pictures.edited(source, picture)
        thumbnail = pictures.latent_size(picture)
        for step in range(1, steps + 1):
            started = time.monotonic()
            if "stderr" in wanted:
                faults.shout()
            x0 = pictures.predicted(thumbnail, step, steps)
            _wait(seconds - (time.monotonic() - started), control)
            if step == (steps + 1) // 2:  # in the middle, so that some steps were reported
                faults.strike(wanted, "denoising")
                faults.spoil(wanted, spec.prompt)
            shown = RuntimeError("no preview") if "nopreview" in wanted else x0
            emit(StepEvent(image=image, step=step, steps=steps, x0=shown))
        emit(PhaseEvent(phase="decoding", image=image))
        faults.strike(wanted, "decoding")
        _wait(self._seconds("decode_ms"), control)
        emit(ImageEvent(image=image, seed=seed, pixels=picture, settled=settled))

    def _setting(self, name: str) -> str | None:
        return self._settings.get(name, os.environ.get(f"LOCARA_FAKE_{name.upper()}"))

    def _seconds(self, name: str) -> float:
        return _milliseconds(self._setting(name), _DEFAULTS[name] / 1000)


def _source(spec: JobSpec) -> Source:
    """Decode the source of an edit.

    :raises EngineError: InvalidImage, InvalidParams or InsufficientMemory.
    """
    # most jobs are not edits
    from locara_sidecar.engine.drawing.source import read
    from locara_sidecar.machine import machine, memory, plan

    def room(needed: int) -> None:
        main = machine.of_engine(unified=False, reserved=spec.model.reserved)
        plan.require_room(needed, plan.room(main, memory.resident()))

    return read(spec, room)


def _settled(spec: JobSpec, source: Source | None) -> Settled:
    """Return the options that a job claims to have run with."""
    quantization, precision = _resolved(spec.model)
    return Settled(
        quantization=quantization,
        precision=precision,
        width=spec.width if source is None else source.width,
        height=spec.height if source is None else source.height,
        tiling="on" if spec.tiling == "on" else "off",
        speed=spec.speed,
    )


def _resolved(model: ModelSpec) -> tuple[str, str]:
    """Return the quantization and precision that a model claims to be loaded with."""
    quantization = "none" if model.quantization == "auto" else model.quantization
    return quantization, "float32" if model.precision == "auto" else model.precision


def _milliseconds(text: str | None, default: float) -> float:
    """Convert milliseconds as text to seconds; returns ``default`` (in seconds) if it is not a number."""
    try:
        return default if text is None else max(0.0, float(text)) / 1000
    except ValueError:
        return default


def _wait(seconds: float, control: Control) -> None:
    """Pretend to work, checking the cancel flag all the time.

    :raises JobCancelled: if the job was cancelled.
    """
    end = time.monotonic() + seconds
    control.checkpoint()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE))
        control.checkpoint()
