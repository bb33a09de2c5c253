"""Runs what may wait for a disk off the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from locara_sidecar.machine.processes.shortage import NO_THREAD

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


async def off_loop(
    function: Callable[..., Result],
    *args: object,
    abandon: bool = False,
    refused: Callable[[], Result] | None = None,
) -> Result:
    """Call a function in a thread; or on this one if the system refuses more threads, because late is better than
    never.

    :param abandon: whether to abandon the thread when the task is cancelled: for functions that change nothing.
    :param refused: called on this thread instead: for functions that may wait for long.
    """
    try:
        return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon)
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        return function(*args) if refused is None else refused()
