"""Step caching: some steps are not computed but predicted from computed steps before them.

A transformer's output changes slowly from step to step. diffusers' TaylorSeer hooks (after Liu et al., 2025,
arXiv:2503.06923) keep the last output of the output projection and its rate of change, and extrapolate linearly; a
predicted step skips all blocks. The sampler itself runs every step, predicted or not.

The patterns are those of ``engine/drawing/speeds.py``; ``tests/bench/speed.py`` measures them. Of the methods in
diffusers 0.42.1, TaylorSeer suits both SD3 and FLUX: FirstBlockCache fails on SD3, whose last block returns no text;
MagCache needs ratios measured for each model and is less accurate without them, for the same number of computed steps.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheConfig, apply_taylorseer_cache
from diffusers.models.cache_utils import CacheMixin
from torch import nn

from locara_sidecar.engine.drawing.speeds import SPEEDS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from diffusers.hooks.hooks import HookRegistry


@contextlib.contextmanager
def caching(denoiser: nn.Module, speed: str) -> Generator[None]:
    """Within the block, run ``denoiser`` at ``speed``, for a single image.

    The hooks and their state are added for this image and removed after it, however it ends: nothing affects other
    images, and the denoiser is left as it was.
    """
    if speed not in SPEEDS:
        yield
        return
    pattern = SPEEDS[speed]
    config = TaylorSeerCacheConfig(
        disable_cache_before_step=pattern.warmup,
        cache_interval=pattern.interval,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        skip_predict_identifiers=[re.escape(name) for name in _left_out(denoiser)],
        cache_identifiers=["proj_out"],
    )
    _take_out(denoiser)  # FLUX's pipeline leaves behind state that does not know of later hooks
    try:
        apply_taylorseer_cache(denoiser, config)
        # for pipelines that set no context of their own; SD3's transformer lacks the mixin but needs nothing else of it
        with cast("Any", CacheMixin).cache_context(denoiser, "step"):
            yield
    finally:
        _take_out(denoiser)


def _left_out(denoiser: nn.Module) -> Iterator[str]:
    """Yield the parts that a predicted step skips.

    Those are blocks and, for a block that returns no text, which diffusers' hook cannot replace, its expensive parts.
    """
    for name, part in denoiser.named_children():
        for number, block in enumerate(part.children() if isinstance(part, nn.ModuleList) else ()):
            inner = ("attn", "ff") if getattr(block, "context_pre_only", False) else ()
            yield from [f"{name}.{number}.{child}" for child in inner] or [f"{name}.{number}"]


def _take_out(denoiser: nn.Module) -> None:
    """Remove all of diffusers' hooks, with their state, from ``denoiser``."""
    for module in denoiser.modules():
        registry: HookRegistry | None = getattr(module, "_diffusers_hook", None)
        if registry is None:
            continue
        for name in list(registry.hooks):
            registry.remove_hook(name, recurse=False)
        delattr(module, "_diffusers_hook")
        vars(module).pop("forward", None)  # remove_hook leaves the class's method on the instance
