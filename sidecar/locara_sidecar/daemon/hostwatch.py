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
        Nothing is watched when we were adopted from the start (a parent of 1, or none).
    """
    if parent > 1:
        _start(parent, on_gone, lambda: os.getppid() == parent)


def watch_process(pid: int, on_gone: Callable[[], None]) -> None:
    """Call ``on_gone`` (in a thread) when process ``pid`` ends."""
    _start(pid, on_gone, lambda: _exists(pid))


def _start(pid: int, on_gone: Callable[[], None], alive: Callable[[], bool]) -> None:
    threading.Thread(target=_watch, args=(pid, on_gone, alive), name=f"watch-{pid}", daemon=True).start()


def _watch(pid: int, on_gone: Callable[[], None], alive: Callable[[], bool]) -> None:
    if alive() and not _wait_for_end(pid):
        while alive():
            time.sleep(_POLL_SECONDS)
    on_gone()


def _wait_for_end(pid: int) -> bool:
    """Block until the process ends; False where the system does not offer to."""
    try:
        if sys.platform == "linux":
            fd = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                poll.poll()
            finally:
                os.close(fd)
            return True
        if sys.platform == "darwin":
            queue = select.kqueue()
            try:
                event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
                queue.control([event], 1)
            finally:
                queue.close()
            return True
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _exists(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
