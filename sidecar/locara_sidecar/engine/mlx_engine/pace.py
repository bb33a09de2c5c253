"""Cancel points in lazy work: MLX computes nothing until it is told to, so a model tells its pace now and then.

A model calls ``pace(hidden)`` after each of its blocks, with all arrays that the next block starts from. Every so many
calls the work so far is handed to the device, the hand-over before it is waited for, and the job may stop. The
device always has the next group of blocks while Python builds the one after it, and never more than two groups.
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
        """:raises JobCancelled: when the job has been cancelled."""
        ...


class Pace:
    """One model call's cancel points.

    :param checkpoint: the job's; raises JobCancelled.
    :param every: blocks in a group.
    """

    def __init__(self, checkpoint: Callable[[], None], every: int = 1) -> None:
        self._checkpoint = checkpoint
        self._every = every
        self._count = 0
        self._before: tuple[mx.array, ...] = ()

    def __call__(self, *state: mx.array) -> None:
        """:raises JobCancelled: when the job has been cancelled; what is queued may still be computed."""
        self._count += 1
        if self._count % self._every:
            return
        mx.async_eval(*state)
        mx.eval(*self._before)
        self._before = state
        self._checkpoint()


class Checkpoints:
    """Where a loaded model finds the job that runs it: its models outlive jobs, and each job can be stopped.

    :param every: blocks in a group.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._control: Control | None = None

    @contextlib.contextmanager
    def armed(self, control: Control) -> Generator[None]:
        """Within the block the models answer to ``control``."""
        self._control = control
        try:
            yield
        finally:
            self._control = None

    def pace(self) -> Pace:
        """For one call of a model."""
        return Pace(self.checkpoint, self._every)

    def checkpoint(self) -> None:
        """:raises JobCancelled: when the running job has been cancelled."""
        if self._control is not None:
            self._control.checkpoint()


def unpaced(*state: mx.array) -> None:
    """For calls that nobody cancels: everything stays lazy."""
    del state
