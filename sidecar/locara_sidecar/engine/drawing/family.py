"""The interface of an opened model to the runtime, the same for every architecture and engine.

A family is first *opened*: its folder is fully checked (index, configurations, shards, headers) and its tokenizers are
read, but nothing heavy. Its components are then loaded and dropped by name, following the memory plan. Arrays are the
engine's own type; only the family looks into them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from locara_sidecar.engine.drawing.parts import parts_of
from locara_sidecar.engine.drawing.prompts import unfit
from locara_sidecar.engine.drawing.source import require_no_mask
from locara_sidecar.engine.folder import folder_check, model_folder, schedulers, tokenizer_check

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.drawing.noise import NoiseStream
    from locara_sidecar.engine.drawing.prompts.truncation import Reader
    from locara_sidecar.engine.drawing.source import Source
    from locara_sidecar.engine.folder.model_folder import Component, Progress
    from locara_sidecar.ipc.frames import JobSpec
    from locara_sidecar.machine import supported
    from locara_sidecar.machine.plan import Part

Array = Any
"""torch.Tensor or mlx.core.array."""
OnStep = Callable[[int, int, Array], None]
"""Arguments: the step (from 1), the number of steps that really run, and x0 (float32, in the shape of the latent)."""


class Embedding(NamedTuple):
    """An encoded text: ``tokens`` (1, length, width) and ``pooled`` (1, width), None for a model without one."""

    tokens: Array
    pooled: Array


@dataclass(frozen=True)
class Denoising:
    """The task of turning noise into the latent of one image.

    :param negative: None without guidance.
    :param source: what an edit starts from; None if the job is not an edit.
    :param on_step: called after each step.
    """

    spec: JobSpec
    prompt: Embedding
    negative: Embedding | None
    source: Source | None
    noise: NoiseStream
    on_step: OnStep


class Previews(Protocol):
    """The preview decoders of a model. ``tiled``: whether the full autoencoder decodes in strips."""

    tiled: bool

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Prepare the decoder that ``mode`` needs, so that no step has to wait for it."""
        ...

    def decode(self, x0: Array, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """Decode a step's x0 to a picture. None if the model has no decoder for ``mode``."""
        ...


class CheckedFolder(NamedTuple):
    """A fully checked model folder.

    :param classes: maps the components that ``model_index.json`` names to their classes.
    :param components: those with weights, in loading order.
    :param scheduler: its configuration, with ``_class_name`` taken from the index.
    """

    classes: dict[str, str]
    components: list[Component]
    scheduler: dict[str, Any]


class Family(ABC):
    """An opened model. Component names are those of ``model_index.json``.

    Each engine's base class defines how to build a component; each adapter defines ``row``, ``encode`` and ``denoise``.
    """

    row: ClassVar[supported.Family]
    """The components of this family's models."""
    engine: ClassVar[str]
    previews: Previews

    def __init__(self, context: Any, read: CheckedFolder, tokenizers: dict[str, Any]) -> None:
        """Used by :meth:`open` only.

        :raises EngineError: IntegrityError if a model cannot be built from the configurations.
        """
        self._context = context
        self._tokenizers = tokenizers
        self._components = {component.name: component for component in read.components}
        self._loaded: dict[str, Any] = {}
        self._numbers: list[Part] = []

    @classmethod
    def read(cls, folder: Path) -> CheckedFolder:
        """Check the folder: index, configurations, shards, headers.

        :raises EngineError: ModelIncomplete or IntegrityError, naming the file.
        """
        row = cls.row
        accepted = {"scheduler": schedulers.classes(row.noise)}
        accepted |= {name: tokenizer.classes for name, tokenizer in row.tokenizers.items()}
        accepted |= {name: frozenset({class_name}) for name, class_name in row.components.items()}
        found = model_folder.read_index(folder, row.saved_as, accepted, row.optional)
        components = [
            model_folder.read_component(folder, name, found[name], row.stem(name))
            for name in row.components
            if name in found
        ]
        components, scheduler = folder_check.checked(folder, row.pipeline, found, components, cls.engine)
        return CheckedFolder(found, components, {**scheduler, "_class_name": found["scheduler"]})

    @classmethod
    def open(cls, context: Any) -> Self:
        """Check the folder and read its tokenizers, but no weights.

        :param context: the engine's own object, with the ``folder`` and how components are to be loaded later.
        :raises EngineError: ModelIncomplete or IntegrityError, naming the file.
        """
        read = cls.read(context.folder)
        configs = {component.name: component.config for component in read.components}
        tokenizers: dict[str, Any] = {}
        for name, kind in cls.row.tokenizers.items():
            if name in read.classes:
                file = tokenizer_check.main_file(context.folder, name)
                with unfit.blamed_on(file, "it reads no text"):
                    tokenizers[name], highest = cls._tokenizer(context.folder, name, kind)
                tokenizer_check.require_ids(name, highest, configs)
        return cls(context, read, tokenizers)

    # --- what an engine adds -------------------------------------------------------------

    @classmethod
    @abstractmethod
    def _tokenizer(cls, folder: Path, name: str, kind: supported.Tokenizer) -> tuple[Any, int]:
        """Return a text encoder's tokenizer, which has read a text on trial, and the highest id that it produces.

        :raises EngineError: ModelIncomplete or IntegrityError, naming the file.
        """

    @abstractmethod
    def _build(self, name: str, progress: Progress) -> Any:
        """Build the component of that name and read its weights, tensor by tensor.

        :raises EngineError: IntegrityError or InsufficientMemory.
        :raises JobCancelled: between two tensors.
        """

    @abstractmethod
    def _release(self) -> None:
        """Return unreferenced memory to the system."""

    @abstractmethod
    def require_fit(self) -> None:
        """Require that configurations and weights match, by the names and shapes in the files' headers.

        :raises EngineError: IntegrityError, as :meth:`load` would.
        """

    @abstractmethod
    def use_scheduler(self, name: str) -> None:
        """Select the scheduler for :meth:`denoise`, one of :attr:`schedulers`.

        :raises EngineError: IntegrityError if it does not support the model's scheduler configuration.
        """

    @property
    @abstractmethod
    def grid(self) -> int:
        """Both sides of a picture must be multiples of this many pixels: the size of a latent pixel or patch."""

    @abstractmethod
    def readers(self, max_sequence_length: int) -> list[Reader]:
        """Return the text encoders as needed for finding truncated words; needs no weights."""

    @abstractmethod
    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """Encode a prompt or negative prompt. Needs :attr:`encoders` loaded."""

    @abstractmethod
    def denoise(self, task: Denoising) -> Array:
        """Return the finished latent of one image. Needs :attr:`denoiser` and :attr:`decoder` loaded."""

    @abstractmethod
    def decode(self, latent: Array, *, tiled: bool) -> Array:
        """Decode a latent to the pixels of one image, about -1 … 1, not clipped. Needs :attr:`decoder` loaded."""

    @abstractmethod
    def to_image(self, pixels: Array) -> PilImage:
        """Convert pixels to an RGB picture exactly as diffusers does."""

    # --- what an adapter may override -----------------------------------------------

    def require_source(self, source: Source) -> None:
        """Require that the model supports this edit; needs no weights.

        :raises EngineError: InvalidParams, naming what it does not support.
        """
        if self.row.no_mask:
            require_no_mask(source, self.row.no_mask)

    @property
    def largest_side(self) -> int | None:
        """The longest side, in pixels, that the model has positions for. None if they are computed for any size."""
        return None

    # --- components ----------------------------------------------------------------------

    @property
    def schedulers(self) -> frozenset[str]:
        """The catalogue's names of the schedulers that the family supports."""
        return schedulers.names(self.row.noise)

    @property
    def negative_prompt(self) -> bool:
        """Whether guidance over 1 uses a negative prompt, which may be empty."""
        return self.row.negative_prompt

    @property
    def encoders(self) -> frozenset[str]:
        """The components that turn text into embeddings. Nothing else needs them."""
        return frozenset(self.row.encoders) & self._components.keys()

    @property
    def denoiser(self) -> str:
        """The component that the denoising loop calls (``transformer`` or ``unet``); not needed after the loop."""
        return self.row.denoiser

    @property
    def decoder(self) -> str:
        """The component that turns latents into pixels and, for an edit, pixels into latents."""
        return self.row.decoder

    @property
    def parts(self) -> list[Part]:
        """The components' sizes and shapes for the memory plan. Reads headers only."""
        if not self._numbers:
            self._numbers = parts_of(self.row, self._components.values(), self._is_wide)
        return self._numbers

    def _is_wide(self, name: str, key: str) -> bool:
        """Whether the tensor ``key`` of a component is in float32 in a float16 job."""
        del name, key
        return False

    def missing(self, names: Collection[str]) -> list[str]:
        """Return those of ``names`` that the model has and that are not loaded, in loading order."""
        return [name for name in self._components if name in names and name not in self._loaded]

    def size(self, names: Collection[str]) -> int:
        """Return the size of the components' weights on disk, in bytes."""
        return sum(component.size for name, component in self._components.items() if name in names)

    def load(self, names: Collection[str], progress: Progress) -> None:
        """Load what :meth:`missing` returns, tensor by tensor. A component is loaded completely or not at all.

        :raises EngineError: IntegrityError or InsufficientMemory.
        :raises JobCancelled: between two tensors.
        """
        for name in self.missing(names):
            self._loaded[name] = self._build(name, progress)

    def drop(self, names: Collection[str]) -> None:
        """Release the weights of these components, ignoring those that are not loaded."""
        dropped = [self._loaded.pop(name) for name in names if name in self._loaded]
        if dropped:
            dropped.clear()
            self._release()
