"""Cancel points in lazy work: MLX computes only on demand, so a model triggers evaluation between its blocks.

A model calls ``pace(hidden)`` after each of its blocks, with all arrays that the next block depends on. Every few calls
the work so far is submitted to the device, the previous submission is awaited, and the job may stop. The device always
has the next group of blocks while Python builds the one after it, but never more than two groups.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from locara_sidecar.engine.runtime import Control


class Paced(Protocol):
    """What a model calls between its blocks."""

    def __call__(self, *state: mx.array) -> None:
        """Mark the end of a block.

        :raises JobCancelled: if the job was cancelled.
        """
        ...


class Pace:
    """The cancel points of one model call.

    :param checkpoint: the job's; raises JobCancelled.
    :param every: number of blocks per group.
    """

    def __init__(self, checkpoint: Callable[[], None], every: int = 1) -> None:
        self._checkpoint = checkpoint
        self._every = every
        self._count = 0
        self._before: tuple[mx.array, ...] = ()

    def __call__(self, *state: mx.array) -> None:
        """Mark the end of a block.

        :raises JobCancelled: if the job was cancelled; work already submitted may still be computed.
        """
        self._count += 1
        if self._count % self._every:
            return
        mx.async_eval(*state)
        mx.eval(*self._before)
        self._before = state
        self._checkpoint()


class Checkpoints:
    """Connects loaded models with the running job: models outlive jobs, but each job can be stopped.

    :param every: number of blocks per group.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._control: Control | None = None

    @contextlib.contextmanager
    def armed(self, control: Control) -> Generator[None]:
        """Within the block, models report to ``control``."""
        self._control = control
        try:
            yield
        finally:
            self._control = None

    def pace(self) -> Pace:
        """Return the pace of one model call."""
        return Pace(self.checkpoint, self._every)

    def checkpoint(self) -> None:
        """Let the running job stop here.

        :raises JobCancelled: if it was cancelled.
        """
        if self._control is not None:
            self._control.checkpoint()


def unpaced(*state: mx.array) -> None:
    """Do nothing: for calls that cannot be cancelled, where everything stays lazy."""
    del state
