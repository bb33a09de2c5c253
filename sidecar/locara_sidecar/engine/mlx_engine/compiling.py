"""The repeated blocks of a denoiser, compiled: what lies between the matrix products becomes a few kernels, where there
would be many that each read and write all activations.

A function is compiled for each block, and not one for a step, so that a job can stop between blocks. Each is traced
when it is first called with arrays of some shape and type, once, and then only run. It keeps the weights that it found
when it was traced: they must be loaded before the first call and never be exchanged, and the functions must go when
the model goes, so they belong to it. On the CPU compiling is off (``device.py``), and blocks run as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx import nn


def compiled(blocks: Sequence[nn.Module]) -> tuple[Callable[..., Any], ...]:
    """The blocks' calls, compiled one by one. A tuple, since the module that keeps it takes lists for layers."""
    return tuple(mx.compile(block) for block in blocks)
