"""Runs what may wait for a disk off the event loop, without exception."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from locara_sidecar.machine.processes import garbage
from locara_sidecar.machine.processes.shortage import NO_THREAD

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS = 1.0
_AGAIN_SECONDS = 0.02

Result = TypeVar("Result")


async def off_loop(
    function: Callable[..., Result],
    *args: object,
    abandon: bool = False,
    refused: Callable[[], Result] | None = None,
) -> Result:
    """Call a function in a thread. If the system refuses another thread, wait a while for one of those there are;
    :func:`keep_a_thread` has started the first.

    :param abandon: whether to abandon the thread when the task is cancelled: for functions that change nothing.
    :param refused: called on this thread if no thread gets free: what waits for nothing, or has to be done at any cost.
    :raises RuntimeError: if no thread gets free. A call that fails with it is answered with InsufficientMemory.
    """
    until = anyio.current_time() + WAIT_SECONDS
    while True:
        try:
            result = await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon)
        except RuntimeError as error:
            if NO_THREAD not in str(error):
                raise
            if anyio.current_time() >= until:
                if refused is None:
                    raise
                return refused()
        else:
            garbage.exempt_imports()
            return result
        await anyio.sleep(_AGAIN_SECONDS)


async def keep_a_thread() -> None:
    """Start the first of the threads for :func:`off_loop`, while the system grants it. One of them is always kept."""
    with contextlib.suppress(RuntimeError):  # it is asked for again when it is needed
        await anyio.to_thread.run_sync(_nothing)


def _nothing() -> None:
    pass
