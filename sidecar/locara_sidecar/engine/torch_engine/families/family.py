"""How a family of the torch engine is opened; what it then offers is :mod:`locara_sidecar.engine.drawing.family`.

:mod:`.diffusers_family` is the common part of all families; a new one is one module with a short class over it, named
in the family's row of ``machine/supported.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from locara_sidecar.engine.torch_engine.denoising.hooks import Checkpoints


class OpenContext(NamedTuple):
    """Which folder, and how its components are to be loaded later; ``checkpoint`` stops a cancelled job,
    ``compiled`` is for the denoiser's blocks."""

    folder: Path
    device: str
    dtype: torch.dtype
    quantization: str
    checkpoints: Checkpoints
    checkpoint: Callable[[], None]
    compiled: bool = False
