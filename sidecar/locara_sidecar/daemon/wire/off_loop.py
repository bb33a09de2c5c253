"""Running what may wait for a disk away from the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

NO_THREAD = "start new thread"
"""CPython's words for a thread that the system refuses; it has no exception of its own for that."""

Result = TypeVar("Result")


async def off_loop(function: Callable[..., Result], *args: object, abandon: bool = False) -> Result:
    """Call a function in a thread; on this one where the system allows no more threads, because late is better than
    never.

    :param abandon: whether the thread is left alone when the task is cancelled: for what changes nothing.
    """
    try:
        return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=abandon)
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        return function(*args)
