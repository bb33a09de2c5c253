"""What an opened model gives to the runtime: the same few verbs, whatever the architecture and the engine.

A family is *opened* first: its folder is checked from end to end (index, configurations, shards, headers), tokenizers
are read, and nothing heavy. Its components are then loaded and dropped by name, as the memory plan has it. Arrays are
the engine's own; nobody but the family looks into them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from locara_sidecar.engine.drawing.parts import parts_of
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
"""step (from 1), steps that really run, x0 in float32 in the shape of the latent."""


class Embedding(NamedTuple):
    """One text, encoded: ``tokens`` (1, length, width) and ``pooled`` (1, width), None where a model takes none."""

    tokens: Array
    pooled: Array


@dataclass(frozen=True)
class Denoising:
    """The way of one image from noise to its latent.

    :param negative: None for no guidance.
    :param source: what an edit starts from.
    :param on_step: called after each step.
    """

    spec: JobSpec
    prompt: Embedding
    negative: Embedding | None
    source: Source | None
    noise: NoiseStream
    on_step: OnStep


class Previews(Protocol):
    """The preview decoders of a model. ``tiled``: the full autoencoder decodes in strips."""

    tiled: bool

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Have the decoder ready that ``mode`` needs, so that no step waits for it."""
        ...

    def decode(self, x0: Array, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """A step's x0 as a picture; None when the model has no decoder for ``mode``."""
        ...


class CheckedFolder(NamedTuple):
    """A model's folder, checked from end to end.

    :param classes: the components that ``model_index.json`` names, and their classes.
    :param components: those with weights, in the order of loading.
    :param scheduler: its configuration, ``_class_name`` being the index's.
    """

    classes: dict[str, str]
    components: list[Component]
    scheduler: dict[str, Any]


class Family(ABC):
    """An opened model. Component names are those of ``model_index.json``.

    An engine's base of its families says how a component is built; an adapter names its row and has ``encode`` and
    ``denoise``.
    """

    row: ClassVar[supported.Family]
    """What the models of the family are made of."""
    engine: ClassVar[str]
    previews: Previews

    def __init__(self, context: Any, read: CheckedFolder, tokenizers: dict[str, Any]) -> None:
        """Used by :meth:`open` only.

        :raises EngineError: IntegrityError for configurations that make nothing.
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
        found = model_folder.read_index(folder, row.pipeline, accepted, row.optional)
        components = [
            model_folder.read_component(folder, name, found[name], row.stem(name))
            for name in row.components
            if name in found
        ]
        components, scheduler = folder_check.checked(folder, row.pipeline, found, components, cls.engine)
        return CheckedFolder(found, components, {**scheduler, "_class_name": found["scheduler"]})

    @classmethod
    def open(cls, context: Any) -> Self:
        """Check the folder and read its tokenizers; no weights.

        :param context: the engine's own, with the ``folder`` and how components are to be loaded later.
        :raises EngineError: ModelIncomplete or IntegrityError, naming the file.
        """
        read = cls.read(context.folder)
        configs = {component.name: component.config for component in read.components}
        tokenizers: dict[str, Any] = {}
        for name, kind in cls.row.tokenizers.items():
            if name in read.classes:
                tokenizers[name], highest = cls._tokenizer(context.folder, name, kind)
                tokenizer_check.require_ids(name, highest, configs)
        return cls(context, read, tokenizers)

    # --- what an engine adds -------------------------------------------------------------

    @classmethod
    @abstractmethod
    def _tokenizer(cls, folder: Path, name: str, kind: supported.Tokenizer) -> tuple[Any, int]:
        """A text encoder's tokenizer, and the highest id that it gives.

        :raises EngineError: ModelIncomplete or IntegrityError, naming the file.
        """

    @abstractmethod
    def _build(self, name: str, progress: Progress) -> Any:
        """The component of that name with its weights, read tensor by tensor.

        :raises EngineError: IntegrityError or InsufficientMemory.
        :raises JobCancelled: between two tensors.
        """

    @abstractmethod
    def _release(self) -> None:
        """Give memory that nothing refers to any more back to the system."""

    @abstractmethod
    def require_fit(self) -> None:
        """Whether configurations and weights fit together, by the names and shapes in the files' headers.

        :raises EngineError: IntegrityError, as :meth:`load` would.
        """

    @abstractmethod
    def use_scheduler(self, name: str) -> None:
        """Let :meth:`denoise` take the scheduler of that name, one of :attr:`schedulers`.

        :raises EngineError: IntegrityError for a configuration that it does not run with.
        """

    @property
    @abstractmethod
    def grid(self) -> int:
        """The sides of a picture are multiples of so many pixels: those of a latent, or of a patch of them."""

    @abstractmethod
    def readers(self, max_sequence_length: int) -> list[Reader]:
        """The text encoders, for telling which words they lose; needs no weights."""

    @abstractmethod
    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """One prompt or negative prompt. Needs :attr:`encoders`."""

    @abstractmethod
    def denoise(self, task: Denoising) -> Array:
        """The finished latent of one image. Needs :attr:`denoiser` and :attr:`decoder`."""

    @abstractmethod
    def decode(self, latent: Array, *, tiled: bool) -> Array:
        """Pixels of one image, about -1 … 1, not yet clipped. Needs :attr:`decoder`."""

    @abstractmethod
    def to_image(self, pixels: Array) -> PilImage:
        """An RGB picture, converted exactly as diffusers does it."""

    # --- what an adapter may say otherwise -----------------------------------------------

    def require_source(self, source: Source) -> None:
        """Whether the model can be given that edit; needs no weights.

        :raises EngineError: InvalidParams naming what it takes no edit with.
        """
        if self.row.no_mask:
            require_no_mask(source, self.row.no_mask)

    @property
    def largest_side(self) -> int | None:
        """The longest side, in pixels, that the model has positions for; None where they are computed for any."""
        return None

    # --- components ----------------------------------------------------------------------

    @property
    def schedulers(self) -> frozenset[str]:
        """The catalogue's names of the schedulers that it runs."""
        return schedulers.names(self.row.noise)

    @property
    def negative_prompt(self) -> bool:
        """Whether guidance over 1 sets the prompt against a negative one, which may be empty."""
        return self.row.negative_prompt

    @property
    def encoders(self) -> frozenset[str]:
        """The components that turn text into embeddings; nothing else needs them."""
        return frozenset(self.row.encoders) & self._components.keys()

    @property
    def denoiser(self) -> str:
        """The component that the loop calls (``transformer`` or ``unet``); nothing after the loop needs it."""
        return self.row.denoiser

    @property
    def decoder(self) -> str:
        """The component that turns latents into pixels and, in an edit, pixels into latents."""
        return self.row.decoder

    @property
    def parts(self) -> list[Part]:
        """The components in numbers, for the memory plan; reads headers only."""
        if not self._numbers:
            self._numbers = parts_of(self.row, self._components.values())
        return self._numbers

    def missing(self, names: Collection[str]) -> list[str]:
        """Those of ``names`` that the model has and that are not loaded, in the order of loading."""
        return [name for name in self._components if name in names and name not in self._loaded]

    def size(self, names: Collection[str]) -> int:
        """Bytes on disk of the components' weights."""
        return sum(component.size for name, component in self._components.items() if name in names)

    def load(self, names: Collection[str], progress: Progress) -> None:
        """Load what :meth:`missing` tells, tensor by tensor; a component is there as a whole or not at all.

        :raises EngineError: IntegrityError or InsufficientMemory.
        :raises JobCancelled: between two tensors.
        """
        for name in self.missing(names):
            self._loaded[name] = self._build(name, progress)

    def drop(self, names: Collection[str]) -> None:
        """Forget the weights of these components; those that are not loaded are passed over."""
        dropped = [self._loaded.pop(name) for name in names if name in self._loaded]
        if dropped:
            dropped.clear()
            self._release()
