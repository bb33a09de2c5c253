"""Tells when the host is gone, even if something else still holds our stdin open.

Watches the process that spawned us and the ``processId`` of ``initialize``. Linux and macOS tell of a
process's end through a descriptor; elsewhere, or where that is refused, it is asked twice a second.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL_SECONDS = 0.5


def watch_parent(parent: int, on_gone: Callable[[], None]) -> None:
    """Call ``on_gone`` (in a thread) when the process that spawned us ends, or has ended already.

    :param parent: the parent's id as it was at the very start: later it may be that of whoever adopted us.
        Nothing is watched where that is the system's first process and seems to have spawned us, or there is none.
    :raises RuntimeError: when the system allows no thread.
    """
    if _is_adopted(parent):
        on_gone()
    elif parent > 1:
        _start(parent, on_gone, lambda: os.getppid() == parent)


def _is_adopted(parent: int) -> bool:
    """Whether ``parent`` cannot have spawned us: then who did has ended before our first line ran.

    Who spawns a process is in its session, unless the process was given one of its own. The system's first process
    and others that adopt orphans are usually not in an app's session; where one is, this cannot be told.
    """
    if sys.platform == "win32" or parent < 1:
        return False
    try:
        return os.getsid(0) not in (os.getpid(), os.getsid(parent))
    except OSError:  # it has just ended, which the watch tells; or the system does not say
        return False


def watch_process(pid: int, on_gone: Callable[[], None], start_task: Callable[..., object]) -> None:
    """Call ``on_gone`` (in a thread, or on the event loop) when process ``pid`` ends.

    :param start_task: starts a coroutine function with arguments on the event loop: it asks for the process now and
        then where the system allows no thread.
    """
    try:
        _start(pid, on_gone, lambda: exists(pid))
    except RuntimeError:
        start_task(_ask, pid, on_gone)


async def _ask(pid: int, on_gone: Callable[[], None]) -> None:
    import anyio  # rarely needed

    while exists(pid):  # noqa: ASYNC110 -- nothing tells of it
        await anyio.sleep(_POLL_SECONDS)
    on_gone()


def _start(pid: int, on_gone: Callable[[], None], alive: Callable[[], bool]) -> None:
    threading.Thread(target=_watch, args=(pid, on_gone, alive), name=f"watch-{pid}", daemon=True).start()


def _watch(pid: int, on_gone: Callable[[], None], alive: Callable[[], bool]) -> None:
    if not _wait_for_end(pid, alive):
        while alive():
            time.sleep(_POLL_SECONDS)
    on_gone()


def _wait_for_end(pid: int, alive: Callable[[], bool]) -> bool:
    """Block until the process ends; False where the system does not offer to.

    ``alive`` is asked once the descriptor is there: before, another process may have got the id of one that ended.
    """
    try:
        if sys.platform == "linux":
            fd = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                if alive():
                    poll.poll()
            finally:
                os.close(fd)
            return True
        if sys.platform == "darwin":
            queue = select.kqueue()
            try:
                event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
                queue.control([event], 0)
                if alive():
                    queue.control(None, 1)
            finally:
                queue.close()
            return True
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def exists(pid: int) -> bool:
    """Whether there is a process with this id; True where the system does not tell."""
    if os.name == "nt":
        return True  # signal 0 would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
