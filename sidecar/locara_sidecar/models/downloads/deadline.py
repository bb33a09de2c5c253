"""A time limit for a call that has none. The libraries limit each read from a connection, so a server that sends a byte
now and then, or one interim answer after another, would keep them waiting forever.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_LOOK = 0.1  # seconds between two looks at whether it was stopped


class LateError(Exception):
    """It took too long, or was stopped."""


def within(
    seconds: float,
    do: Callable[[], _T],
    stopped: Callable[[], bool] = lambda: False,
    discard: Callable[[_T], object] = lambda _: None,
) -> _T:
    """Return what ``do`` returns, or raise what it raises. If it takes too long, it goes on in a thread that nobody
    waits for and that does not keep the process alive. Do not close what it reads from: the descriptor's number may be
    reused for one of our files, and TLS would go on reading from that.

    :param discard: called with a result that comes too late.
    :raises LateError: after that time, or once ``stopped``.
    """
    found: list[_T] = []
    failed: list[BaseException] = []
    lock = threading.Lock()
    late = False

    def run() -> None:
        try:
            result = do()
        except BaseException as error:  # noqa: BLE001 -- raised below, for whoever waits
            failed.append(error)
            return
        with lock:
            if not late:
                found.append(result)
                return
        discard(result)

    thread = threading.Thread(target=run, name="request", daemon=True)
    thread.start()
    ends = time.monotonic() + seconds
    while thread.is_alive() and not stopped() and (left := ends - time.monotonic()) > 0:
        thread.join(min(left, _LOOK))
    with lock:
        late = True
    if failed:
        raise failed.pop()
    if not found:
        raise LateError
    return found[0]
