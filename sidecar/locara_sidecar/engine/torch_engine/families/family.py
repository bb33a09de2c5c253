"""How a family of the torch engine is opened; its interface is :mod:`locara_sidecar.engine.drawing.family`.

All families derive from :mod:`.diffusers_family`. A new one is a module with a short class, named in the family's row
of ``machine/supported.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from locara_sidecar.engine.torch_engine.denoising.hooks import Checkpoints


class OpenContext(NamedTuple):
    """A model's folder and how to load its components later.

    ``checkpoint`` stops a cancelled job; ``compiled``: whether to compile the denoiser's blocks.
    """

    folder: Path
    device: str
    dtype: torch.dtype
    quantization: str
    checkpoints: Checkpoints
    checkpoint: Callable[[], None]
    compiled: bool = False
