"""The course of a job, shared by both engines: one job at a time, its images made one by one.

This module defines the order of phases, when components are loaded and dropped (following the memory plan) and which
failures become EngineErrors. The computation is the families' (:mod:`.family`), the device the engine's own
(:mod:`.backend`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from locara_sidecar.engine.drawing import drawn_sizes, source
from locara_sidecar.engine.drawing.embeddings import EmbeddingKey, Embeddings
from locara_sidecar.engine.drawing.family import Denoising
from locara_sidecar.engine.drawing.noise import NoiseStream
from locara_sidecar.engine.drawing.prompts import unfit, word_list
from locara_sidecar.engine.drawing.prompts.truncation import truncation_warning
from locara_sidecar.engine.drawing.warm import ModelRequest, WarmModel
from locara_sidecar.engine.folder.model_folder import Progress
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
from locara_sidecar.machine.supported import least_steps, steps_at

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.drawing.backend import Backend
    from locara_sidecar.engine.drawing.family import Array, Embedding, Family
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.engine.drawing.warm import Opened, WarmKey
    from locara_sidecar.ipc.frames import JobSpec, LoadSpec, PrepareSpec
    from locara_sidecar.machine.plan import Plan


class _Loading:
    """Loads the components of one job, in any number of calls, and reports one overall fraction."""

    def __init__(self, family: Family, names: Collection[str], emit: Emit, control: Control) -> None:
        self._family = family
        self._emit = emit
        self._progress = Progress(family.size(family.missing(names)), self._report, control.checkpoint)
        self._fraction = 0.0

    def load(self, names: Collection[str]) -> None:
        """Load those of the components that are not loaded yet."""
        if self._family.missing(names):
            self._report(self._fraction)
            self._family.load(names, self._progress)

    def _report(self, fraction: float) -> None:
        self._fraction = fraction
        self._emit(PhaseEvent(phase="loading", image=1, fraction=fraction))


class _Conditioning(NamedTuple):
    """What steers a job: its embeddings, the source of an edit, and warnings about both."""

    prompt: Embedding
    negative: Embedding | None
    source: Source | None
    warnings: list[tuple[str, str]]


class StagedRuntime:
    """The :class:`~locara_sidecar.engine.runtime.Runtime` of both engines; ``backend`` is what differs between them."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.device = backend.device
        self.note = backend.note
        self.warm = WarmModel(backend)
        self._embeddings = Embeddings()

    @property
    def opened(self) -> Opened | None:
        """The model that is open, if any."""
        return self.warm.opened

    # --- the interface -------------------------------------------------------------------

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """See :meth:`Runtime.load`.

        :raises JobCancelled: between two tensors.
        :raises EngineError: EngineUnavailable, ModelIncomplete, IntegrityError or InsufficientMemory.
        """
        with self.backend.working(control):
            opened, plan = self.warm.ready(ModelRequest(spec.model, spec.width, spec.height), emit, control)
            family = opened.family
            names = {family.denoiser, family.decoder} | (frozenset[str]() if plan.encoders_leave else family.encoders)
            _Loading(family, names, emit, control).load(names)
        key = opened.key
        return LoadedModel(quantization=key.quantization, precision=key.precision, memory=self.backend.footprint())

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """See :meth:`Runtime.generate`. A loaded model stays loaded, whatever happens to the job.

        :raises JobCancelled: from a checkpoint, with the device idle.
        :raises EngineError: EngineUnavailable, ModelIncomplete, IntegrityError, InsufficientMemory, InvalidImage,
            InvalidParams (an edit's size) or InvalidOutput.
        """
        edited = None
        if spec.edit is not None:
            edited = source.read(spec, lambda needed: self.warm.make_room(needed, spec.model.reserved))
        if edited is not None:
            spec = msgspec.structs.replace(spec, width=edited.width, height=edited.height)
        demand = ModelRequest(
            spec.model,
            spec.width,
            spec.height,
            guided=spec.guidance > 1,
            references=() if edited is None else edited.sizes,
            tiling=spec.tiling,
        )
        with self.backend.working(control):
            opened, plan = self.warm.ready(demand, emit, control, lambda family: self._require(family, spec, edited))
            opened.family.use_scheduler(spec.scheduler)
            least = least_steps(self.name, spec.model.family, spec.speed)
            asked, speed = spec.speed, "exact" if least is None or _steps(spec) < least else spec.speed
            # an edit encodes its source inside the loop, in strips if the picture is decoded in strips
            spec = msgspec.structs.replace(spec, tiling="on" if plan.tiled else "off", speed=speed)
            conditioning = self._condition(spec, edited, plan, emit, control)
            if self.warm.tight is not None:
                conditioning.warnings.append(("MemoryTight", self.warm.tight))
            if speed != asked:
                what = f"The {self.name} engine has no step caching for {spec.model.id} at {_steps(spec)} steps"
                conditioning.warnings.append(("SpeedUnavailable", f"{what}; it ran at speed exact."))
            opened.family.previews.tiled = plan.tiled
            opened.family.previews.prepare(spec.preview.mode, control.checkpoint)
            self._make_images(spec, conditioning, plan, emit, control)
        return Summary(settled=_settled(spec, opened.key), warnings=conditioning.warnings)

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """See :meth:`Backend.prepare`."""
        return self.backend.prepare(spec, emit, control)

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """See :meth:`Runtime.preview`. On the job's own thread, a full decode stops early if the job is cancelled.

        :raises JobCancelled: in that case.
        """
        return None if self.opened is None else self.opened.family.previews.decode(x0, mode, max_side)

    def peak_memory(self) -> int:
        """See :meth:`Runtime.peak_memory`."""
        return self.backend.peak_memory()

    def peak_allocated(self) -> int | None:
        """See :meth:`Runtime.peak_allocated`."""
        return self.backend.peak_allocated()

    def _require(self, family: Family, spec: JobSpec, edited: Source | None) -> None:
        """Reject options that the model's files do not support, before any weights are read.

        :raises EngineError: InvalidParams naming the option and values that work, or EngineUnavailable.
        """
        self.warm.choose_scheduler(family, spec.model, spec.scheduler)
        drawn_sizes.require_drawn(family, spec)
        if edited is not None:
            family.require_source(edited)

    def _condition(
        self, spec: JobSpec, edited: Source | None, plan: Plan, emit: Emit, control: Control
    ) -> _Conditioning:
        """Encode the prompts, or take them from the cache, and warn about what the encoders did not see.

        Without guidance (up to 1) there is no negative prompt. Afterwards everything that the loop and the decoder need
        is loaded.
        """
        assert self.opened is not None
        key, family = self.opened
        length = spec.model.max_sequence_length
        opposed = family.negative_prompt and spec.guidance > 1
        texts = {"prompt": spec.prompt} | ({"negative prompt": spec.negative_prompt} if opposed else {})
        keys = {what: EmbeddingKey(key, text, length) for what, text in texts.items()}
        found = {known: self._embeddings.get(known) for known in keys.values() if known in self._embeddings}
        unknown = [known for known in dict.fromkeys(keys.values()) if known not in found]
        encoders = family.encoders if unknown else frozenset[str]()
        rest = {family.denoiser, family.decoder}
        if plan.alone and family.missing(encoders):
            family.drop({family.denoiser})
        loading = _Loading(family, encoders | rest, emit, control)
        if unknown:
            loading.load(encoders if plan.alone else encoders | rest)
            emit(PhaseEvent(phase="encoding", image=1))
        for known in unknown:
            control.checkpoint()
            found[known] = _encoded(family, known.text, length)
            self._embeddings.put(known, found[known])
        if plan.encoders_leave:
            family.drop(family.encoders)
        loading.load(rest)
        warnings = [] if edited is None else list(edited.warnings)
        lost = _lost(family, texts, length)
        warnings += [("PromptTruncated", warning) for warning in lost if warning]
        unknown_words = word_list.warning(spec.prompt, word_list.read(Path(spec.model.path), spec.model.digest))
        if unknown_words:
            warnings.append(("PromptNotUnderstood", unknown_words))
        embeddings = [found[known] for known in keys.values()]
        return _Conditioning(
            embeddings[0],
            embeddings[1] if len(embeddings) > 1 else None,
            edited,
            warnings,
        )

    def _make_images(
        self, spec: JobSpec, conditioning: _Conditioning, plan: Plan, emit: Emit, control: Control
    ) -> None:
        """Make all images of the job: one after another or, if the denoiser must be dropped, first all latents."""
        assert self.opened is not None
        family, images = self.opened.family, range(1, spec.count + 1)
        for group in [images] if plan.denoiser_leaves else [range(image, image + 1) for image in images]:
            latents = [self._denoise(family, spec, conditioning, image, emit, control) for image in group]
            if plan.denoiser_leaves:
                family.drop({family.denoiser})
            for image, latent in zip(group, latents, strict=True):
                self._decode(family, spec, conditioning.source, latent, image, emit, control)

    def _denoise(
        self, family: Family, spec: JobSpec, conditioning: _Conditioning, image: int, emit: Emit, control: Control
    ) -> Array:
        """Return the latent of image ``image`` (from 1) of the job."""

        def on_step(step: int, steps: int, x0: Array) -> None:
            self.backend.synchronise()
            self._require_finite(x0, f"step {step}")
            emit(StepEvent(image=image, step=step, steps=steps, x0=x0))
            control.checkpoint()

        emit(PhaseEvent(phase="denoising", image=image))
        noise = NoiseStream(spec.seed + image - 1)
        prompt, negative, edited, _ = conditioning
        latent = family.denoise(Denoising(spec, prompt, negative, edited, noise, on_step))
        self._require_finite(latent, "the finished latent")
        return latent

    def _decode(
        self,
        family: Family,
        spec: JobSpec,
        edited: Source | None,
        latent: Array,
        image: int,
        emit: Emit,
        control: Control,
    ) -> None:
        """Decode image ``image`` (from 1) of the job; an edit gets its source back where the mask is black."""
        assert self.opened is not None
        emit(PhaseEvent(phase="decoding", image=image))
        control.checkpoint()
        pixels = family.decode(latent, tiled=spec.tiling == "on")
        self._require_finite(pixels, "the decoded image")  # diffusers would turn it into black
        control.checkpoint()
        picture = family.to_image(pixels)
        if picture.getbbox() is None:
            raise EngineError("InvalidOutput", "The model made an entirely black picture.")
        emit(
            ImageEvent(
                image=image,
                seed=spec.seed + image - 1,
                pixels=picture if edited is None else source.composite(edited, picture),
                settled=_settled(spec, self.opened.key),
            )
        )

    def _require_finite(self, array: Array, what: str) -> None:
        if not self.backend.is_finite(array):
            text = f"The model computed numbers that are not finite ({what})."
            if self.opened is not None and self.opened.key.precision == "float16":
                text += " They may be beyond float16's range; precision bfloat16 has more."
            raise EngineError("InvalidOutput", text)


def _encoded(family: Family, text: str, length: int) -> Embedding:
    """Encode a text.

    :raises EngineError: IntegrityError if the model's tokenizers and encoders fail on the text.
    """
    with unfit.encoding():
        return family.encode(text, length)


def _lost(family: Family, texts: Mapping[str, str], length: int) -> list[str | None]:
    """Return, for each of ``texts`` in order, a warning about what the encoders did not see of it, or None.

    :raises EngineError: as :func:`_encoded`.
    """
    with unfit.encoding():
        readers = family.readers(length)
        return [truncation_warning(text, readers, what) for what, text in texts.items()]


def _steps(spec: JobSpec) -> int:
    """Return how many steps an image really takes."""
    strength = None if spec.edit is None else spec.edit.strength
    return spec.steps if strength is None else steps_at(spec.model.family, strength, spec.steps)


def _settled(spec: JobSpec, key: WarmKey) -> Settled:
    return Settled(
        quantization=key.quantization,
        precision=key.precision,
        width=spec.width,
        height=spec.height,
        tiling="on" if spec.tiling == "on" else "off",
        speed=spec.speed,
    )
