"""The torch engine: one model loaded and kept warm, one job at a time, images made one by one.

Owned here: which model is open (path, digest, precision and quantization are its key), when its components are loaded
and dropped, the order of phases and which failures get a name. The arithmetic is the families' and diffusers'
(``sd3.py``).
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from locara_sidecar.engine import memory
from locara_sidecar.engine.frames import Settled
from locara_sidecar.engine.model_folder import Progress
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
from locara_sidecar.engine.torch_engine.embeddings import EmbeddingKey, Embeddings
from locara_sidecar.engine.torch_engine.family import Embedding, Family, OpenContext
from locara_sidecar.engine.torch_engine.hooks import Checkpoints
from locara_sidecar.engine.truncation import truncation_warning

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from PIL.Image import Image as PilImage

    from locara_protocol.messages import PreviewDecoder
    from locara_sidecar.engine.frames import JobSpec, LoadSpec, ModelSpec

FAMILIES = {"sd3": ("locara_sidecar.engine.torch_engine.sd3", "Sd3")}
"""Catalogue family to the module and class that run it; imported when first used."""


class _Key(NamedTuple):
    path: str
    digest: str
    precision: str
    quantization: str


class _Opened(NamedTuple):
    """A model whose folder is open; what of it is loaded is its own business."""

    key: _Key
    family: Family


class _Stages(NamedTuple):
    """Which components leave when they have done their part of a job. ``alone``: the denoiser is not there either while
    the encoders are."""

    encoders_leave: bool = False
    alone: bool = False
    denoiser_leaves: bool = False


class _Loading:
    """The loading of one job: one fraction over all that it will load, in however many stages."""

    def __init__(self, family: Family, names: Collection[str], emit: Emit, control: Control) -> None:
        self._family = family
        self._emit = emit
        self._progress = Progress(family.size(family.missing(names)), self._report, control.checkpoint)
        self._fraction = 0.0

    def load(self, names: Collection[str]) -> None:
        """Have these components loaded."""
        if self._family.missing(names):
            self._report(self._fraction)
            self._family.load(names, self._progress)

    def _report(self, fraction: float) -> None:
        self._fraction = fraction
        self._emit(PhaseEvent(phase="loading", image=1, fraction=fraction))


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
        self._opened: _Opened | None = None
        self._embeddings = Embeddings()

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """See :meth:`Runtime.load`.

        :raises JobCancelled: between two tensors.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError or InsufficientMemory.
        """
        key = self._key(spec.model)
        with self._working(control):
            family = self._open(spec.model, key, emit, control)
            stages = self._stages()
            names = {family.denoiser, family.decoder} | (frozenset[str]() if stages.encoders_leave else family.encoders)
            _Loading(family, names, emit, control).load(names)
        taken = devices.footprint(self.device)
        return LoadedModel(quantization=key.quantization, precision=key.precision, memory=taken)

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """See :meth:`Runtime.generate`; a model that is loaded stays loaded, whatever happens to the job.

        :raises JobCancelled: from a checkpoint, with the device idle.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError, InsufficientMemory or InvalidOutput.
        """
        key = self._key(spec.model)
        with self._working(control):
            family = self._open(spec.model, key, emit, control)
            if spec.scheduler not in family.schedulers:
                raise EngineFault("EngineUnavailable", f"The torch engine does not run the scheduler {spec.scheduler}.")
            stages = self._stages()
            conditioning = self._condition(spec, stages, emit, control)
            family.previews.prepare(spec.preview.mode, control.checkpoint)
            self._make_images(spec, conditioning, stages, emit, control)
        return Summary(settled=_settled(spec, key), warnings=conditioning.warnings)

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """See :meth:`Runtime.preview`. On the job's own thread a full decode ends early if the job is cancelled.

        :raises JobCancelled: in that case.
        """
        return None if self._opened is None else self._opened.family.previews.decode(x0, mode, max_side)

    def peak_memory(self) -> int:
        return memory.peak()

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

    def _stages(self) -> _Stages:
        return _Stages()

    def _open(self, model: ModelSpec, key: _Key, emit: Emit, control: Control) -> Family:
        """The model of ``key``: the one that is open, or opened now in place of it."""
        if self._opened is None or self._opened.key != key:
            emit(PhaseEvent(phase="loading", image=1))
            if self._opened is not None:
                self._opened = None
                devices.release(self.device)
            environment.import_libraries(control.checkpoint)
            context = OpenContext(
                folder=Path(model.path),
                device=self.device,
                dtype=devices.dtype_of(key.precision),
                checkpoints=self._checkpoints,
                checkpoint=control.checkpoint,
            )
            self._opened = _Opened(key, _family(model.family).open(context))
        return self._opened.family

    def _condition(self, spec: JobSpec, stages: _Stages, emit: Emit, control: Control) -> _Conditioning:
        """Both texts' embeddings, and what the encoders did not see of them; guidance up to 1 needs no negative one.
        Afterwards everything is loaded that the loop and the decoder need."""
        assert self._opened is not None
        key, family = self._opened
        length = spec.model.max_sequence_length
        texts = {"prompt": spec.prompt} | ({"negative prompt": spec.negative_prompt} if spec.guidance > 1 else {})
        keys = {what: EmbeddingKey(key, text, length) for what, text in texts.items()}
        unknown = [known for known in dict.fromkeys(keys.values()) if known not in self._embeddings]
        encoders = family.encoders if unknown else frozenset[str]()
        rest = {family.denoiser, family.decoder}
        if stages.alone and family.missing(encoders):
            family.drop({family.denoiser})
        loading = _Loading(family, encoders | rest, emit, control)
        if unknown:
            loading.load(encoders if stages.alone else encoders | rest)
            emit(PhaseEvent(phase="encoding", image=1))
        for known in unknown:
            control.checkpoint()
            self._embeddings.put(known, family.encode(known.text, length))
        if stages.encoders_leave:
            family.drop(family.encoders)
        loading.load(rest)
        readers = family.readers(length)
        lost = [truncation_warning(text, readers, what) for what, text in texts.items()]
        embeddings = [self._embeddings.get(known) for known in keys.values()]
        return _Conditioning(
            embeddings[0],
            embeddings[1] if len(embeddings) > 1 else None,
            [("PromptTruncated", warning) for warning in lost if warning],
        )

    def _make_images(
        self, spec: JobSpec, conditioning: _Conditioning, stages: _Stages, emit: Emit, control: Control
    ) -> None:
        """All images of the job: each one as a whole, or, where the denoiser has to leave, first all latents."""
        assert self._opened is not None
        family, images = self._opened.family, range(1, spec.count + 1)
        for group in [images] if stages.denoiser_leaves else [range(image, image + 1) for image in images]:
            latents = [self._denoise(family, spec, conditioning, image, emit, control) for image in group]
            if stages.denoiser_leaves:
                family.drop({family.denoiser})
            for image, latent in zip(group, latents, strict=True):
                self._decode(family, spec, latent, image, emit, control)

    def _denoise(
        self, family: Family, spec: JobSpec, conditioning: _Conditioning, image: int, emit: Emit, control: Control
    ) -> torch.Tensor:
        """The latent of image ``image`` (from 1) of the job."""

        def on_step(step: int, steps: int, x0: torch.Tensor) -> None:
            devices.synchronise(self.device)
            _require_finite(x0, f"step {step}")
            emit(StepEvent(image=image, step=step, steps=steps, x0=x0))
            control.checkpoint()

        emit(PhaseEvent(phase="denoising", image=image))
        noise = NoiseStream(spec.seed + image - 1)
        latent = family.denoise(spec, conditioning.prompt, conditioning.negative, noise, on_step, None)
        _require_finite(latent, "the finished latent")
        return latent

    def _decode(
        self, family: Family, spec: JobSpec, latent: torch.Tensor, image: int, emit: Emit, control: Control
    ) -> None:
        """Image ``image`` (from 1) of the job from its latent."""
        assert self._opened is not None
        emit(PhaseEvent(phase="decoding", image=image))
        control.checkpoint()
        pixels = family.decode(latent, tiled=spec.tiling == "on")
        _require_finite(pixels, "the decoded image")  # diffusers would turn it into black
        control.checkpoint()
        emit(
            ImageEvent(
                image=image,
                seed=spec.seed + image - 1,
                pixels=family.to_image(pixels),
                settled=_settled(spec, self._opened.key),
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
