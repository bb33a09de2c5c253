"""Step caching: some steps are not computed but predicted from the computed steps before them.

What a transformer answers changes slowly from step to step. diffusers' TaylorSeer hooks (after Liu et al., 2025,
arXiv:2503.06923) keep the last answer of the output projection and how fast it changes, and continue it along that
line; all blocks are left out of a foretold step. The sampler itself runs every step, foretold or not.

The patterns are those of ``engine/drawing/speeds.py``; ``tests/bench/speed.py`` measures them. Why TaylorSeer, of what
diffusers 0.42.1 has, for SD3 and FLUX alike: FirstBlockCache fails on SD3, whose last block answers no text; MagCache
needs ratios measured for each model, and without them, at as many computed steps, it is further off.
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
    """Let ``denoiser`` answer at ``speed`` for the one image that is made within the block.

    The hooks and all that they keep are put in for this image and taken out after it, however it ends: nothing of it
    reaches another image, and the denoiser is afterwards what it was.
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
    _take_out(denoiser)  # what FLUX's pipeline leaves behind knows of no hooks that come later
    try:
        apply_taylorseer_cache(denoiser, config)
        # for the pipelines that name no context of their own; SD3's transformer lacks the mixin and needs none of it
        with cast("Any", CacheMixin).cache_context(denoiser, "step"):
            yield
    finally:
        _take_out(denoiser)


def _left_out(denoiser: nn.Module) -> Iterator[str]:
    """The parts that a foretold step leaves out: blocks, and of one that answers no text, for which diffusers' hook has
    no stand-in, the parts that cost something."""
    for name, part in denoiser.named_children():
        for number, block in enumerate(part.children() if isinstance(part, nn.ModuleList) else ()):
            inner = ("attn", "ff") if getattr(block, "context_pre_only", False) else ()
            yield from [f"{name}.{number}.{child}" for child in inner] or [f"{name}.{number}"]


def _take_out(denoiser: nn.Module) -> None:
    """Remove all of diffusers' hooks from ``denoiser``, and what they keep."""
    for module in denoiser.modules():
        registry: HookRegistry | None = getattr(module, "_diffusers_hook", None)
        if registry is None:
            continue
        for name in list(registry.hooks):
            registry.remove_hook(name, recurse=False)
        delattr(module, "_diffusers_hook")
        vars(module).pop("forward", None)  # the class's own, put on the module itself
