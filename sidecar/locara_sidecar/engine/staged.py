"""What both engines do alike: one job at a time, its images made one by one.

Owned here: the order of phases, when the components of the open model are loaded and dropped (the memory plan says it)
and which failures get a name. The arithmetic is the families' (``engine/family.py``); what is left to an engine are the
abstract methods of :class:`StagedRuntime` and of its base.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from locara_sidecar.engine import memory, source, speeds
from locara_sidecar.engine.embeddings import EmbeddingKey, Embeddings
from locara_sidecar.engine.family import Denoising
from locara_sidecar.engine.frames import Settled, steps_at
from locara_sidecar.engine.model_folder import Progress
from locara_sidecar.engine.noise import NoiseStream
from locara_sidecar.engine.runtime import (
    Control,
    Emit,
    EngineFault,
    ImageEvent,
    LoadedModel,
    PhaseEvent,
    PreparedModel,
    StepEvent,
    Summary,
)
from locara_sidecar.engine.truncation import truncation_warning
from locara_sidecar.engine.warm import Demand, Key, WarmRuntime

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Collection

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.family import Array, Embedding, Family
    from locara_sidecar.engine.frames import JobSpec, LoadSpec, PrepareSpec
    from locara_sidecar.engine.plan import Plan
    from locara_sidecar.engine.source import Source


class _Loading:
    """The loading of one job: one fraction over all that it will load, in however many plan."""

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
    """What steers a job: its embeddings, what it edits, and warnings about words that the embeddings lack."""

    prompt: Embedding
    negative: Embedding | None
    source: Source | None
    warnings: list[tuple[str, str]]


class StagedRuntime(WarmRuntime):
    """The common part of the engines' :class:`~locara_sidecar.engine.runtime.Runtime`."""

    def __init__(self) -> None:
        super().__init__()
        self._embeddings = Embeddings()

    # --- what an engine adds -------------------------------------------------------------

    @abstractmethod
    def _working(self, control: Control) -> contextlib.AbstractContextManager[None]:
        """Where the device works for one job: ``control`` can stop it, out of memory gets its name, and the device is
        idle at the end."""

    @abstractmethod
    def _is_finite(self, array: Array) -> bool:
        """Whether an array holds numbers only; waits for it."""

    @abstractmethod
    def _synchronise(self) -> None:
        """Wait until the device has done everything that it was given."""

    @abstractmethod
    def _footprint(self) -> int:
        """Bytes that the engine takes now, in the process and on the device."""

    # --- the interface -------------------------------------------------------------------

    def load(self, spec: LoadSpec, emit: Emit, control: Control) -> LoadedModel:
        """See :meth:`Runtime.load`.

        :raises JobCancelled: between two tensors.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError or InsufficientMemory.
        """
        with self._working(control):
            opened, plan = self._prepare(Demand(spec.model, spec.width, spec.height), emit, control)
            family = opened.family
            names = {family.denoiser, family.decoder} | (frozenset[str]() if plan.encoders_leave else family.encoders)
            _Loading(family, names, emit, control).load(names)
        key = opened.key
        return LoadedModel(quantization=key.quantization, precision=key.precision, memory=self._footprint())

    def generate(self, spec: JobSpec, emit: Emit, control: Control) -> Summary:
        """See :meth:`Runtime.generate`; a model that is loaded stays loaded, whatever happens to the job.

        :raises JobCancelled: from a checkpoint, with the device idle.
        :raises EngineFault: EngineUnavailable, ModelIncomplete, IntegrityError, InsufficientMemory, InvalidImage,
            InvalidParams (an edit's size) or InvalidOutput.
        """
        edited = None if spec.edit is None else source.read(spec)
        if edited is not None:
            spec = msgspec.structs.replace(spec, width=edited.width, height=edited.height)
        demand = Demand(
            spec.model,
            spec.width,
            spec.height,
            guided=spec.guidance > 1,
            edits=edited is not None,
            tiling=spec.tiling,
        )
        with self._working(control):
            opened, plan = self._prepare(demand, emit, control)
            if spec.scheduler not in opened.family.schedulers:
                raise EngineFault(
                    "EngineUnavailable", f"The {self.name} engine does not run the scheduler {spec.scheduler}."
                )
            least = speeds.least_steps(self.name, spec.model.family, spec.speed)
            asked, speed = spec.speed, "exact" if least is None or _steps(spec) < least else spec.speed
            # an edit encodes its source inside the loop, in tiles if the picture is decoded so
            spec = msgspec.structs.replace(spec, tiling="on" if plan.tiled else "off", speed=speed)
            conditioning = self._condition(spec, edited, plan, emit, control)
            if speed != asked:
                what = f"The {self.name} engine has no step caching for {spec.model.id} at {_steps(spec)} steps"
                conditioning.warnings.append(("SpeedUnavailable", f"{what}; it ran at speed exact."))
            opened.family.previews.prepare(spec.preview.mode, control.checkpoint)
            self._make_images(spec, conditioning, plan, emit, control)
        return Summary(settled=_settled(spec, opened.key), warnings=conditioning.warnings)

    def prepare(self, spec: PrepareSpec, emit: Emit, control: Control) -> PreparedModel:
        """See :meth:`Runtime.prepare`; an engine that can has its own.

        :raises EngineFault: EngineUnavailable.
        """
        raise self._unavailable("prepares no models: it quantizes them while it loads them")

    def preview(self, x0: Any, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """See :meth:`Runtime.preview`. On the job's own thread a full decode ends early if the job is cancelled.

        :raises JobCancelled: in that case.
        """
        return None if self._opened is None else self._opened.family.previews.decode(x0, mode, max_side)

    def peak_memory(self) -> int:
        return memory.peak()

    def peak_allocated(self) -> int | None:
        return None

    def _condition(
        self, spec: JobSpec, edited: Source | None, plan: Plan, emit: Emit, control: Control
    ) -> _Conditioning:
        """Both texts' embeddings, and what the encoders did not see of them; guidance up to 1 needs no negative one.
        Afterwards everything is loaded that the loop and the decoder need."""
        assert self._opened is not None
        key, family = self._opened
        length = spec.model.max_sequence_length
        opposed = family.classifier_free_guidance and spec.guidance > 1
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
            found[known] = family.encode(known.text, length)
            self._embeddings.put(known, found[known])
        if plan.encoders_leave:
            family.drop(family.encoders)
        loading.load(rest)
        readers = family.readers(length)
        lost = [truncation_warning(text, readers, what) for what, text in texts.items()]
        embeddings = [found[known] for known in keys.values()]
        return _Conditioning(
            embeddings[0],
            embeddings[1] if len(embeddings) > 1 else None,
            edited,
            [("PromptTruncated", warning) for warning in lost if warning],
        )

    def _make_images(
        self, spec: JobSpec, conditioning: _Conditioning, plan: Plan, emit: Emit, control: Control
    ) -> None:
        """All images of the job: each one as a whole, or, where the denoiser has to leave, first all latents."""
        assert self._opened is not None
        family, images = self._opened.family, range(1, spec.count + 1)
        for group in [images] if plan.denoiser_leaves else [range(image, image + 1) for image in images]:
            latents = [self._denoise(family, spec, conditioning, image, emit, control) for image in group]
            if plan.denoiser_leaves:
                family.drop({family.denoiser})
            for image, latent in zip(group, latents, strict=True):
                self._decode(family, spec, conditioning.source, latent, image, emit, control)

    def _denoise(
        self, family: Family, spec: JobSpec, conditioning: _Conditioning, image: int, emit: Emit, control: Control
    ) -> Array:
        """The latent of image ``image`` (from 1) of the job."""

        def on_step(step: int, steps: int, x0: Array) -> None:
            self._synchronise()
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
        """Image ``image`` (from 1) of the job from its latent; in an edit, its source again where the mask is black."""
        assert self._opened is not None
        emit(PhaseEvent(phase="decoding", image=image))
        control.checkpoint()
        pixels = family.decode(latent, tiled=spec.tiling == "on")
        self._require_finite(pixels, "the decoded image")  # diffusers would turn it into black
        control.checkpoint()
        picture = family.to_image(pixels)
        if picture.getbbox() is None:
            raise EngineFault("InvalidOutput", "The model gave a picture that is black throughout.")
        emit(
            ImageEvent(
                image=image,
                seed=spec.seed + image - 1,
                pixels=picture if edited is None else source.composite(edited, picture),
                settled=_settled(spec, self._opened.key),
            )
        )

    def _require_finite(self, array: Array, what: str) -> None:
        if not self._is_finite(array):
            raise EngineFault("InvalidOutput", f"The model gave numbers that are not finite ({what}).")


def _steps(spec: JobSpec) -> int:
    """How many steps an image really takes."""
    strength = None if spec.edit is None else spec.edit.strength
    return spec.steps if strength is None else steps_at(spec.model.family, strength, spec.steps)


def _settled(spec: JobSpec, key: Key) -> Settled:
    return Settled(
        quantization=key.quantization,
        precision=key.precision,
        width=spec.width,
        height=spec.height,
        tiling="on" if spec.tiling == "on" else "off",
        speed=spec.speed,
    )
