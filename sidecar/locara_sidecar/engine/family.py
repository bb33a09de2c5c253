"""What an opened model gives to the runtime: the same few verbs, whatever the architecture and the engine.

A family is *opened* first: its folder is checked from end to end (index, configurations, shards, headers), tokenizers
are read, and nothing heavy. Its components are then loaded and dropped by name, as the memory plan has it. Arrays are
the engine's own; nobody but the family looks into them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from PIL.Image import Image as PilImage

    from locara_protocol.image_messages import PreviewDecoder
    from locara_sidecar.engine.frames import JobSpec
    from locara_sidecar.engine.model_folder import Progress
    from locara_sidecar.engine.noise import NoiseStream
    from locara_sidecar.engine.plan import Part
    from locara_sidecar.engine.source import Source
    from locara_sidecar.engine.truncation import Reader

Array = Any
"""torch.Tensor or mlx.core.array."""
OnStep = Callable[[int, int, Array], None]
"""step (from 1), steps that really run, x0 in float32 in the shape of the latent."""


class Embedding(NamedTuple):
    """One text, encoded: ``tokens`` (1, length, width) and ``pooled`` (1, width)."""

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
    """The preview decoders of a model."""

    def prepare(self, mode: str, checkpoint: Callable[[], None]) -> None:
        """Have the decoder ready that ``mode`` needs, so that no step waits for it."""
        ...

    def decode(self, x0: Array, mode: str, max_side: int) -> tuple[PilImage, PreviewDecoder] | None:
        """A step's x0 as a picture; None when the model has no decoder for ``mode``."""
        ...


class Family(Protocol):
    """An opened model. Component names are those of ``model_index.json``."""

    @property
    def schedulers(self) -> frozenset[str]:
        """The catalogue's names of the schedulers that it runs."""
        ...

    @property
    def classifier_free_guidance(self) -> bool:
        """Whether guidance over 1 sets the prompt against a negative one, which may be empty."""
        ...

    @property
    def previews(self) -> Previews: ...

    @property
    def encoders(self) -> frozenset[str]:
        """The components that turn text into embeddings; nothing else needs them."""
        ...

    @property
    def denoiser(self) -> str:
        """The component that the loop calls (``transformer`` or ``unet``); nothing after the loop needs it."""
        ...

    @property
    def decoder(self) -> str:
        """The component that turns latents into pixels and, in an edit, pixels into latents."""
        ...

    def missing(self, names: Collection[str]) -> list[str]:
        """Those of ``names`` that the model has and that are not loaded, in the order of loading."""
        ...

    @property
    def parts(self) -> list[Part]:
        """The components in numbers, for the memory plan; reads headers only."""
        ...

    def size(self, names: Collection[str]) -> int:
        """Bytes on disk of the components' weights."""
        ...

    def load(self, names: Collection[str], progress: Progress) -> None:
        """Load what :meth:`missing` tells, tensor by tensor; a component is there as a whole or not at all.

        :raises EngineFault: IntegrityError or InsufficientMemory.
        :raises JobCancelled: between two tensors.
        """
        ...

    def drop(self, names: Collection[str]) -> None:
        """Forget the weights of these components; those that are not loaded are passed over."""
        ...

    def readers(self, max_sequence_length: int) -> list[Reader]:
        """The text encoders, for telling which words they lose; needs no weights."""
        ...

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """One prompt or negative prompt. Needs :attr:`encoders`."""
        ...

    def denoise(self, task: Denoising) -> Array:
        """The finished latent of one image. Needs :attr:`denoiser` and :attr:`decoder`."""
        ...

    def decode(self, latent: Array, *, tiled: bool) -> Array:
        """Pixels of one image, about -1 … 1, not yet clipped. Needs :attr:`decoder`."""
        ...

    def to_image(self, pixels: Array) -> PilImage:
        """An RGB picture, converted exactly as diffusers does it."""
        ...
