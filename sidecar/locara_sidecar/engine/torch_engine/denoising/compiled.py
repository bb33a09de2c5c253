"""Compile the denoiser's repeated blocks (``torch.compile``) one at a time, if the host asks for it with ``--compile``.

Blocks of one kind share the code compiled for the first of them. The first picture of a size waits for compilation; a
second size triggers one more, which then serves all sizes. The rest of the denoiser runs uncompiled, so that a job
still stops between blocks. Compiled code lives as long as the engine process. Step caching (:mod:`.step_cache`) keeps
its state in hooks within the blocks, so a job with any speed other than ``exact`` runs them uncompiled.

It is off by default: it changes the last bits of a picture, cannot be cancelled from within (the daemon then kills the
process), and pays off only if many pictures are made. Measured on an H200 with diffusers' ``compile_repeated_blocks``,
1024 x 1024 in bfloat16: FLUX.1 dev went from 0.175 to 0.134 s a step, SDXL Lightning from 0.069 to 0.049 s, and the
first call took 22 and 11 s. So it pays off there after about 550 steps, or 20 pictures of FLUX.1 dev; sooner on slower
GPUs.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Generator

_KEPT = "_compiled_forward"
_logger = logging.getLogger(__name__)
_torch: Any = torch


def works(device: str) -> bool:
    """Whether compilation works here (it needs a C compiler and, on CUDA, Triton). Logs the reason if not."""
    if device == "mps":
        _logger.warning("--compile: not supported on MPS; blocks run uncompiled")
        return False
    one = torch.ones(8, device=device)
    try:
        _torch.compile(_probe)(one)
    except Exception as error:  # noqa: BLE001  whatever is missing, the reason is logged, and nothing depends on it
        _logger.warning("--compile: nothing can be compiled here (%s); blocks run uncompiled", type(error).__name__)
        return False
    finally:
        _torch.compiler.reset()
    return True


def _probe(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.silu(x) * 2


def compile_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Compile the repeated blocks of ``denoiser`` on their next call; returns the blocks."""
    blocks = blocks_of(denoiser)
    _logger.info("--compile: %d blocks will be compiled when they are first run", len(blocks))
    for block in blocks:
        block.forward = _torch.compile(block.forward)
        vars(block)[_KEPT] = block.forward
    return blocks


@contextlib.contextmanager
def aside(denoiser: nn.Module) -> Generator[None]:
    """Within the block, run everything uncompiled: for hooks with state, which must not be compiled."""
    blocks = [part for part in denoiser.modules() if _KEPT in vars(part)]
    for block in blocks:
        vars(block).pop("forward", None)
    try:
        yield
    finally:
        for block in blocks:
            block.forward = vars(block)[_KEPT]


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks: those that diffusers declares, or else the members of the denoiser's lists."""
    named: set[str] = set(getattr(denoiser, "_repeated_blocks", None) or ())
    if named:
        return [part for part in denoiser.modules() if type(part).__name__ in named]
    lists = [part for part in denoiser.children() if isinstance(part, nn.ModuleList)]
    return [block for part in lists for block in part.children()]
