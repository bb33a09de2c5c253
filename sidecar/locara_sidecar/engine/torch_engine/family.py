"""What a model family gives to the runtime: the same few verbs, whatever the architecture.

A new family is one module with a class of this shape, and one row in ``runtime.FAMILIES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from locara_sidecar.engine.frames import JobSpec
    from locara_sidecar.engine.noise import NoiseStream
    from locara_sidecar.engine.torch_engine.hooks import Checkpoints, OnStep
    from locara_sidecar.engine.torch_engine.previews import Previews
    from locara_sidecar.engine.torch_engine.truncation import Reader


class Embedding(NamedTuple):
    """One text, encoded: ``tokens`` (1, length, width) and ``pooled`` (1, width)."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class LoadContext(NamedTuple):
    """Where and how to load: ``report`` takes the fraction done, ``checkpoint`` stops a cancelled job."""

    folder: Path
    device: str
    dtype: torch.dtype
    checkpoints: Checkpoints
    report: Callable[[float], None]
    checkpoint: Callable[[], None]


class Family(Protocol):
    """A loaded model."""

    schedulers: frozenset[str]
    previews: Previews

    @classmethod
    def load(cls, context: LoadContext) -> Family:
        """:raises EngineFault: ModelIncomplete or IntegrityError, before anything is sampled."""
        ...

    def readers(self, max_sequence_length: int) -> list[Reader]:
        """The text encoders, for telling which words they lost."""
        ...

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        """One prompt or negative prompt."""
        ...

    def denoise(
        self, spec: JobSpec, prompt: Embedding, negative: Embedding | None, noise: NoiseStream, on_step: OnStep
    ) -> torch.Tensor:
        """The finished latent of one image; no guidance where ``negative`` is None."""
        ...

    def decode(self, latent: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        """Pixels (1, 3, height, width), about -1 … 1, not yet clipped."""
        ...

    def to_image(self, pixels: torch.Tensor) -> Any:
        """A PIL image, converted exactly as diffusers does it."""
        ...
