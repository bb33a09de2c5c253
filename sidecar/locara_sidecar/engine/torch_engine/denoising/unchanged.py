"""What diffusers computes anew in every step, although it is the same in all of them.

These are the projection of the prompt's embeddings, and the look-up of an attention processor's parameters. Both count
for a small model on a CPU. The results are the same objects as in the first step, so no pixel changes.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import torch
    from torch import nn


class _Signature:
    """Stands for a function of which only the signature is asked."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.__signature__ = signature

    def __call__(self) -> None:
        """``inspect`` describes callables only."""


class _Last:
    """A function of one tensor that remembers its last result."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._function = function
        self._given: torch.Tensor | None = None
        self._result: Any = None

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        if given is not self._given:
            self._given, self._result = None, None  # not both in memory while the next is computed
            self._result = self._function(given)
            self._given = given
        return self._result


@contextlib.contextmanager
def computed_once(denoiser: nn.Module) -> Generator[None]:
    """Within the block, project a prompt's embeddings only once as long as the same tensor is given.

    diffusers' loops pass the same tensor to every step. It must not be modified meanwhile.
    """
    embedder: Any = getattr(denoiser, "context_embedder", None)
    if embedder is None:
        yield
        return
    own = cast("dict[str, Any]", vars(embedder))
    before = own.get("forward")
    embedder.forward = _Last(embedder.forward)
    try:
        yield
    finally:
        if before is None:
            del embedder.forward
        else:
            embedder.forward = before


def describe_processors(denoiser: nn.Module) -> None:
    """Let ``inspect.signature`` of each attention processor's ``__call__`` return at once.

    diffusers asks for it whenever attention is computed, which takes as long as a small layer. Calling a processor does
    not change: Python looks for ``__call__`` in its class only.
    """
    for module in denoiser.modules():
        processor = getattr(module, "processor", None)
        if callable(processor) and "__call__" not in vars(processor):
            vars(processor)["__call__"] = _Signature(inspect.signature(processor.__call__))
