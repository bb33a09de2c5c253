"""The torch engine: one model loaded and kept warm, one job at a time, images made one by one.

Owned here: what is loaded (path, digest, precision and quantization are its key), the embeddings that are kept, the
order of phases and which failures get a name. The arithmetic is the families' and diffusers' (``sd3.py``).
"""

from __future__ import annotations

import contextlib
import importlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from locara_sidecar.engine.frames import Settled
from locara_sidecar.engine.noise import NoiseStream
from locara_sidecar.engine.runtime import (
    Control,
    Emit,
    EngineFault,
    ImageEvent,
    LoadedModel,
    PhaseEvent,
    StepEvent,
    Summary,
)
from locara_sidecar.engine.torch_engine import devices, environment
from locara_sidecar.engine.torch_engine.family import Embedding, Family, LoadContext
from locara_sidecar.engine.torch_engine.hooks import Checkpoints
from locara_sidecar.engine.torch_engine.truncation import truncation_warning

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL.Image import Image as PilImage

    from locara_protocol.messages import PreviewDecoder
    from locara_sidecar.engine.frames import JobSpec, LoadSpec, ModelSpec

FAMILIES = {"sd3": ("locara_sidecar.engine.torch_engine.sd3", "Sd3")}
"""Catalogue family to the module and class that run it; imported when first used."""

_EMBEDDINGS_KEPT = 16


class _Key(NamedTuple):
    path: str
    digest: str
    precision: str
    quantization: str


class _Loaded:
    """A model and the embeddings it has made, the latest used last."""

    def __init__(self, key: _Key, family: Family) -> None:
        self.key = key
        self.family = family
        self._embeddings: OrderedDict[tuple[str, int], Embedding] = OrderedDict()

    def known(self, text: str, length: int) -> bool:
        return (text, length) in self._embeddings

    def embedding(self, text: str, length: int) -> Embedding:
        """The text's embedding, encoded only if it is not known."""
        if not self.known(text, length):
            self._embeddings[text, length] = self.family.encode(text, length)
            if len(self._embeddings) > _EMBEDDINGS_KEPT:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end((text, length))
        return self._embeddings[text, length]


class _Conditioning(NamedTuple):
    """What steers a job: its embeddings, and warnings about words that they lack."""

    prompt: Embedding
    negative: Embedding | None
    warnings: list[tuple[str, str]]


class TorchRuntime:
    """:class:`~locara_sidecar.engine.runtime.Runtime` on torch and diffusers.

    :param scratch: a folder that the libraries may write caches to.
    """

    name = "torch"

    def __init__(self, scratch: str) -> None:
        environment.prepare(scratch)
        self.device = devices.choose_device()
        self._checkpoints = Checkpoints(self.device)
        self._loaded: _Loaded | None = None

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """See :meth:`Runtime.load`.

        :raises JobCancelled: between two tensors.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError or InsufficientMemory.
        """
        key = self._key(spec.model)
        with self._working(control):
            self._load(spec.model, key, emit, control)
        memory = devices.footprint(self.device)
        return LoadedModel(quantization=key.quantization, precision=key.precision, memory=memory)

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """See :meth:`Runtime.generate`; a model that is loaded stays loaded, whatever happens to the job.

        :raises JobCancelled: from a checkpoint, with the device idle.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError, InsufficientMemory or InvalidOutput.
        """
        key = self._key(spec.model)
        with self._working(control):
            loaded = self._load(spec.model, key, emit, control)
            if spec.scheduler not in loaded.family.schedulers:
                raise EngineFault("EngineUnavailable", f"The torch engine does not run the scheduler {spec.scheduler}.")
            loaded.family.previews.prepare(spec.preview.mode, control.checkpoint)
            conditioning = self._encode(spec, loaded, emit, control)
            for image in range(1, spec.count + 1):
                self._make_image(spec, loaded, conditioning, image, emit, control)
        return Summary(settled=_settled(spec, key), warnings=conditioning.warnings)

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """See :meth:`Runtime.preview`. On the job's own thread a full decode ends early if the job is cancelled.

        :raises JobCancelled: in that case.
        """
        return None if self._loaded is None else self._loaded.family.previews.decode(x0, mode, max_side)

    def peak_memory(self) -> int:
        return devices.peak_memory()

    def _key(self, model: ModelSpec) -> _Key:
        """What is to be loaded for ``model``: ``auto`` resolved for this device."""
        precision = devices.choose_precision(model.precision, self.device)
        return _Key(model.path, model.digest, precision, _quantization(model))

    @contextlib.contextmanager
    def _working(self, control: Control) -> Generator[None]:
        """Where the device works for one job: hooks armed, no gradients; out of memory gets its name, and the device is
        idle at the end."""
        try:
            with torch.no_grad(), self._checkpoints.armed(control):
                yield
        except (RuntimeError, MemoryError) as error:
            if fault := devices.memory_fault(error, self.device):
                raise fault from error
            raise
        finally:
            devices.synchronise(self.device)

    def _load(self, model: ModelSpec, key: _Key, emit: Emit, control: Control) -> _Loaded:
        """The model of ``key``: the one that is loaded, or loaded now in place of it."""
        if self._loaded is None or self._loaded.key != key:
            emit(PhaseEvent(phase="loading", image=1))
            if self._loaded is not None:
                self._loaded = None
                devices.release(self.device)
            environment.import_libraries(control.checkpoint)

            def report(fraction: float) -> None:
                emit(PhaseEvent(phase="loading", image=1, fraction=fraction))

            context = LoadContext(
                folder=Path(model.path),
                device=self.device,
                dtype=devices.dtype_of(key.precision),
                checkpoints=self._checkpoints,
                report=report,
                checkpoint=control.checkpoint,
            )
            self._loaded = _Loaded(key, _family(model.family).load(context))
        return self._loaded

    def _encode(self, spec: JobSpec, loaded: _Loaded, emit: Emit, control: Control) -> _Conditioning:
        """Both texts' embeddings, and what the encoders did not see of them; guidance up to 1 needs no negative one."""
        length = spec.model.max_sequence_length
        texts = {"prompt": spec.prompt} | ({"negative prompt": spec.negative_prompt} if spec.guidance > 1 else {})
        if not all(loaded.known(text, length) for text in texts.values()):
            emit(PhaseEvent(phase="encoding", image=1))
        embeddings: list[Embedding] = []
        warnings: list[tuple[str, str]] = []
        readers = loaded.family.readers(length)
        for what, text in texts.items():
            control.checkpoint()
            embeddings.append(loaded.embedding(text, length))
            if warning := truncation_warning(text, readers, what):
                warnings.append(("PromptTruncated", warning))
        return _Conditioning(embeddings[0], embeddings[1] if len(embeddings) > 1 else None, warnings)

    def _make_image(
        self, spec: JobSpec, loaded: _Loaded, conditioning: _Conditioning, image: int, emit: Emit, control: Control
    ) -> None:
        """Image ``image`` (from 1) of the job, from noise to pixels."""

        def on_step(step: int, steps: int, x0: torch.Tensor) -> None:
            devices.synchronise(self.device)
            _require_finite(x0, f"step {step}")
            emit(StepEvent(image=image, step=step, steps=steps, x0=x0))
            control.checkpoint()

        family, seed = loaded.family, spec.seed + image - 1
        emit(PhaseEvent(phase="denoising", image=image))
        latent = family.denoise(spec, conditioning.prompt, conditioning.negative, NoiseStream(seed), on_step)
        _require_finite(latent, "the finished latent")
        emit(PhaseEvent(phase="decoding", image=image))
        control.checkpoint()
        pixels = family.decode(latent, tiled=spec.tiling == "on")
        _require_finite(pixels, "the decoded image")  # diffusers would turn it into black
        control.checkpoint()
        emit(
            ImageEvent(
                image=image,
                seed=seed,
                pixels=family.to_image(pixels),
                settled=_settled(spec, loaded.key),
            )
        )


def _settled(spec: JobSpec, key: _Key) -> Settled:
    return Settled(
        quantization=key.quantization,
        precision=key.precision,
        width=spec.width,
        height=spec.height,
        tiling="on" if spec.tiling == "on" else "off",
    )


def _quantization(model: ModelSpec) -> str:
    if model.quantization in ("auto", "none"):
        return "none"
    raise EngineFault(
        "EngineUnavailable",
        f"The torch engine does not quantize yet; ask for quantization 'none' instead of '{model.quantization}'.",
    )


def _family(name: str) -> type[Family]:
    """The class that runs a family; imported here, because that takes a while."""
    if name not in FAMILIES:
        raise EngineFault("EngineUnavailable", f"The torch engine does not run models of the family {name}.")
    module, attribute = FAMILIES[name]
    return cast("type[Family]", getattr(importlib.import_module(module), attribute))


def _require_finite(tensor: torch.Tensor, what: str) -> None:
    if not torch.isfinite(tensor).all().item():
        raise EngineFault("InvalidOutput", f"The model gave numbers that are not finite ({what}).")
