"""What both engines do alike: one model open and kept warm, one job at a time, images made one by one.

Owned here: which model is open (path, digest, precision and quantization are its key), when its components are loaded
and dropped (the memory plan says it), the order of phases and which failures get a name. The arithmetic is the
families' (``engine/family.py``); what is left to an engine are the abstract methods of :class:`StagedRuntime`.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from locara_sidecar.engine import memory, source, speeds
from locara_sidecar.engine import plan as plans
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

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Collection, Mapping

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.family import Array, Embedding, Family
    from locara_sidecar.engine.frames import JobSpec, LoadSpec, ModelSpec, PrepareSpec
    from locara_sidecar.engine.machine import Machine
    from locara_sidecar.engine.plan import Ask, Limits, Plan
    from locara_sidecar.engine.source import Source


_CLIP_TOKENS = 77
_logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What decides whether two jobs share a loaded model; nothing of it is ``auto``."""

    path: str
    digest: str
    precision: str
    quantization: str


class Opened(NamedTuple):
    """A model whose folder is open; what of it is loaded is its own business."""

    key: Key
    family: Family


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


class Demand(NamedTuple):
    """What a job or a load asks of the machine."""

    model: ModelSpec
    width: int
    height: int
    guided: bool = True
    edits: bool = False
    tiling: str = "auto"


class _Conditioning(NamedTuple):
    """What steers a job: its embeddings, what it edits, and warnings about words that the embeddings lack."""

    prompt: Embedding
    negative: Embedding | None
    source: Source | None
    warnings: list[tuple[str, str]]


class StagedRuntime(ABC):
    """The common part of the engines' :class:`~locara_sidecar.engine.runtime.Runtime`."""

    name: ClassVar[str]
    families: ClassVar[Mapping[str, tuple[str, str]]]
    """Catalogue family to the module and class that run it; imported when first used, because that takes a while."""
    device: str
    note: str | None = None

    def __init__(self) -> None:
        self._opened: Opened | None = None
        self._embeddings = Embeddings()

    # --- what an engine adds -------------------------------------------------------------

    @abstractmethod
    def _working(self, control: Control) -> contextlib.AbstractContextManager[None]:
        """Where the device works for one job: ``control`` can stop it, out of memory gets its name, and the device is
        idle at the end."""

    @abstractmethod
    def _choose_precision(self, asked: str) -> str:
        """The computing type's name; ``auto`` is the fastest one that is sound on the device."""

    @abstractmethod
    def _machine(self, reserved: int) -> Machine:
        """The memory that a plan may use; what the engine has already counts as available."""

    @abstractmethod
    def _open_family(self, model: ModelSpec, key: Key, control: Control) -> Family:
        """Open the model's folder with the class that :meth:`_family_class` gives.

        :raises EngineFault: EngineUnavailable, ModelIncomplete or IntegrityError.
        """

    @abstractmethod
    def _is_finite(self, array: Array) -> bool:
        """Whether an array holds numbers only; waits for it."""

    @abstractmethod
    def _synchronise(self) -> None:
        """Wait until the device has done everything that it was given."""

    @abstractmethod
    def _release(self) -> None:
        """Give memory that nothing refers to any more back to the system."""

    @abstractmethod
    def _footprint(self) -> int:
        """Bytes that the engine takes now, in the process and on the device."""

    def _limit(self, limits: Limits) -> None:
        """Have the allocator keep to a plan, the one that the next weights are loaded for; where it can be told."""
        del limits

    def _saved_as(self, model: ModelSpec) -> str | None:
        """The bits that a folder's weights were saved in; None for weights that can be loaded in any."""
        del model
        return None

    def _family_class(self, family: str) -> Any:
        """:raises EngineFault: EngineUnavailable for a family that the engine does not run."""
        if family not in self.families:
            raise self._unavailable(f"does not run models of the family {family}")
        module, attribute = self.families[family]
        return getattr(importlib.import_module(module), attribute)

    def _unavailable(self, what: str) -> EngineFault:
        return EngineFault("EngineUnavailable", f"The {self.name} engine {what}.")

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

    def _prepare(self, demand: Demand, emit: Emit, control: Control) -> tuple[Opened, Plan]:
        """The model open with the bits of its plan. ``auto`` keeps the bits that it is open with if they fit.

        :raises EngineFault: InsufficientMemory, EngineUnavailable, or what opening raises.
        """
        model, current = demand.model, self._opened
        if model.quantization not in ("auto", *plans.QUANTIZATIONS):
            raise self._unavailable(f"does not know the quantization '{model.quantization}'")
        precision = self._choose_precision(model.precision)
        if model.quantization == "auto" and (saved := self._saved_as(model)) is not None:
            model = msgspec.structs.replace(model, quantization=saved)
        forms = {form.quantization: form.path for form in model.prepared if form.precision == precision}
        # the headers of a prepared form tell auto as much as those of the model itself
        first = next(iter(forms), "none") if model.quantization == "auto" else model.quantization
        key = Key(model.path, model.digest, precision, first)
        if model.quantization == "auto" and current is not None and current.key[:3] == key[:3]:
            key = current.key
        family = self._open(model, key, emit, control)
        ask = plans.Ask(
            width=demand.width,
            height=demand.height,
            precision=precision,
            quantization=model.quantization,
            tiling=demand.tiling,
            guided=demand.guided and family.classifier_free_guidance,
            edits=demand.edits,
            text_tokens=model.max_sequence_length + _CLIP_TOKENS,
            prepared=frozenset(forms),
        )
        machine = self._machine(model.reserved)
        plan = self._plan(family, ask, key.quantization, machine)
        _logger.info("memory plan: %s", plan)
        self._limit(plans.limits(plan, machine))
        self._open(model, key._replace(quantization=plan.quantization), emit, control)
        assert self._opened is not None
        return self._opened, plan

    def _plan(self, family: Family, ask: Ask, current: str, machine: Machine) -> Plan:
        """:param current: the bits that the family is open with."""
        plan: Plan | None = None
        if not family.missing({family.denoiser}):
            plan = plans.choose(family.parts, msgspec.structs.replace(ask, quantization=current), machine)
        return plan or plans.require(family.parts, ask, machine)

    def _open(self, model: ModelSpec, key: Key, emit: Emit, control: Control) -> Family:
        """The model of ``key``: the one that is open, or opened now in place of it."""
        if self._opened is None or self._opened.key != key:
            emit(PhaseEvent(phase="loading", image=1))
            if self._opened is not None:
                self._opened = None
                self._release()
            self._opened = Opened(key, self._open_family(_best_form(model, key), key, control))
        return self._opened.family

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
        unknown = [known for known in dict.fromkeys(keys.values()) if known not in self._embeddings]
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
            self._embeddings.put(known, family.encode(known.text, length))
        if plan.encoders_leave:
            family.drop(family.encoders)
        loading.load(rest)
        readers = family.readers(length)
        lost = [truncation_warning(text, readers, what) for what, text in texts.items()]
        embeddings = [self._embeddings.get(known) for known in keys.values()]
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


def _best_form(model: ModelSpec, key: Key) -> ModelSpec:
    """The model in the form that was prepared for ``key``, where there is one: the same numbers, with less to read and
    nothing to compute."""
    wanted = key.quantization, key.precision
    paths = (form.path for form in model.prepared if (form.quantization, form.precision) == wanted)
    return msgspec.structs.replace(model, path=next(paths, model.path))


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
