"""Compile a network's repeated blocks: the operations between matrix products become a few kernels.

Uncompiled, there are many kernels, each of which reads and writes all activations. Each block is compiled on its own,
not a whole step, so that a job can stop between blocks. A block is traced on its first call with arrays of a given
shape and type, and only run after that. Weights are passed as arguments: a function that captured them would keep those
of its first call and use them even after they were replaced. On the CPU compilation is off (``device.py``), and blocks
run as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx import nn


def compiled(blocks: Sequence[nn.Module]) -> tuple[Callable[..., Any], ...]:
    """Compile the blocks' calls one by one. (Returns a tuple, because a module treats a list as its layers.)"""
    return tuple(mx.compile(block, inputs=block) for block in blocks)
