"""What a model family gives to the runtime: the same few verbs, whatever the architecture.

A family is *opened* first: its folder is checked from end to end and nothing heavy is read. Its components are then
loaded and dropped by name, as the memory plan has it. :mod:`.diffusers_family` is the common part; a new family is one
module with a short class over it, and one row in ``runtime.FAMILIES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    import torch

    from locara_sidecar.engine.frames import JobSpec
    from locara_sidecar.engine.model_folder import Progress
    from locara_sidecar.engine.noise import NoiseStream
    from locara_sidecar.engine.source import Source
    from locara_sidecar.engine.torch_engine.hooks import Checkpoints, OnStep
    from locara_sidecar.engine.torch_engine.previews import Previews
    from locara_sidecar.engine.truncation import Reader


class Embedding(NamedTuple):
    """One text, encoded: ``tokens`` (1, length, width) and ``pooled`` (1, width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class OpenContext(NamedTuple):
    """Which folder, and how its components are to be loaded later; ``checkpoint`` stops a cancelled job."""

    folder: Path
    device: str
    dtype: torch.dtype
    checkpoints: Checkpoints
    checkpoint: Callable[[], None]


class Family(Protocol):
    """An opened model. Component names are those of ``model_index.json``."""

    schedulers: frozenset[str]
    previews: Previews

    @classmethod
    def open(cls, context: OpenContext) -> Family:
        """Check the folder (index, configurations, shards, headers); load tokenizers and scheduler, no weights.

        :raises EngineFault: ModelIncomplete or IntegrityError.
        """
        ...

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

    def denoise(
        self,
        spec: JobSpec,
        prompt: Embedding,
        negative: Embedding | None,
        noise: NoiseStream,
        on_step: OnStep,
        source: Source | None,
    ) -> torch.Tensor:
        """The finished latent (1, C, h, w) of one image; no guidance where ``negative`` is None. ``source`` is what an
        edit starts from. Needs :attr:`denoiser` and :attr:`decoder`. ``on_step`` gets x0 in the same shape."""
        ...

    def decode(self, latent: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        """Pixels (1, 3, height, width), about -1 … 1, not yet clipped. Needs :attr:`decoder`."""
        ...

    def to_image(self, pixels: torch.Tensor) -> Any:
        """A PIL image, converted exactly as diffusers does it."""
        ...
