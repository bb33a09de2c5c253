"""Runs what may wait for a disk off the event loop, and bounds how long a callback goes on with what was sent."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from locara_sidecar.machine.processes import garbage
from locara_sidecar.machine.processes.shortage import NO_THREAD

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_SECONDS = 0.0005
"""How long one callback of the event loop goes on with the next line, before others get their turn."""

WAIT_SECONDS = 0.4
"""Less than the end of the daemon leaves to the calls that are still open."""
_AGAIN_SECONDS = 0.02

Result = TypeVar("Result")


def turn() -> Callable[[], bool]:
    """Begin a turn of a callback; return a function that says whether it is over."""
    until = time.perf_counter() + TURN_SECONDS
    return lambda: time.perf_counter() > until


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
