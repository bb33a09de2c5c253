"""The repeated blocks of a network, compiled: what lies between the matrix products becomes a few kernels, where there
would be many that each read and write all activations.

A function is compiled for each block, and not one for a step, so that a job can stop between blocks. Each is traced
when it is first called with arrays of some shape and type, once, and then only run. Weights go in with the arguments:
a function that captured them would compute with those of its first call even if they were exchanged, and would keep
them. On the CPU compiling is off (``device.py``), and blocks run as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlx import nn


def compiled(blocks: Sequence[nn.Module]) -> tuple[Callable[..., Any], ...]:
    """The blocks' calls, compiled one by one. (A tuple: a module takes a list that it is given for layers.)"""
    return tuple(mx.compile(block, inputs=block) for block in blocks)
