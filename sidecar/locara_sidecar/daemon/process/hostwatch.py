"""Detects that the host is gone, even if something else still holds our stdin open.

Watches the process that spawned us and the ``processId`` of ``initialize``. Linux and macOS report a process's end
through a descriptor; elsewhere, or if that is refused, the process is polled twice a second.
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

    :param parent: the parent's id at the very start: later it may be that of the process that adopted us.
        Nothing is watched if there is no parent, or if it is the system's first process and seems to have spawned us.
    :raises RuntimeError: if the system refuses a thread.
    """
    if _is_adopted(parent):
        on_gone()
    elif parent > 1:
        _start(parent, on_gone, lambda: os.getppid() == parent)


def _is_adopted(parent: int) -> bool:
    """Whether ``parent`` cannot have spawned us: then the process that did ended before our first line ran.

    A process starts in its parent's session, unless it was given its own. The system's first process and others that
    adopt orphans are usually not in an app's session; if one is, we cannot tell.
    """
    if sys.platform == "win32" or parent < 1:
        return False
    try:
        return os.getsid(0) not in (os.getpid(), os.getsid(parent))
    except OSError:  # it has just ended, which the watch reports; or the system does not say
        return False


def watch_process(pid: int, on_gone: Callable[[], None], start_task: Callable[..., object]) -> None:
    """Call ``on_gone`` (in a thread, or on the event loop) when process ``pid`` ends.

    :param start_task: starts a coroutine function with arguments on the event loop, to poll the process if the system
        refuses a thread.
    """
    try:
        _start(pid, on_gone, lambda: exists(pid))
    except RuntimeError:
        start_task(_ask, pid, on_gone)


async def _ask(pid: int, on_gone: Callable[[], None]) -> None:
    import anyio  # rarely needed

    while exists(pid):  # noqa: ASYNC110 -- nothing signals it
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
    """Block until the process ends; False if the system does not support that.

    ``alive`` is called once the descriptor exists: before that, the id of a process that ended may have gone to another
    one.
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
    """Whether there is a process with this id; True if the system does not say."""
    if os.name == "nt":
        return True  # signal 0 would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
