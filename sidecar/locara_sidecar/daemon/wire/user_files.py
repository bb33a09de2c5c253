"""Waiting for the user's files, which may take for ever: a folder that macOS asks the user about, a share that is gone.

The calls of the file system run in threads. A task that waits for one is freed at once by its call's cancel; the thread
is left behind, and what it finds too late is thrown away by the thread itself.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from locara_protocol.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Result = TypeVar("Result")

MAX_THREADS = 16
"""Of the 40 that anyio has, so that files that hang do not keep all else from running."""

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("user_files")


class UserFiles:
    """The waits of one call. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._cancelled = False

    def cancel(self) -> None:
        """End the waits that there are and those that come."""
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def heeding(self) -> Generator[None]:
        """A block whose waits end with :meth:`cancel`.

        :raises RpcError: RequestCancelled then.
        """
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._cancelled:
                scope.cancel()
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise RpcError("RequestCancelled", "The request was cancelled.", images=[])


class Handover:
    """Between a thread that works and the task that waits for it: which of them is first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = "open"
        self.started = False
        """Whether the thread had begun its work; does not change after :meth:`leave`."""

    def start(self) -> bool:
        """In the thread, first of all. False where nobody waits any more."""
        with self._lock:
            self.started = self._state != "left"
            return self.started

    def begin(self) -> bool:
        """In the thread: what cannot be undone comes now. False where nobody waits any more."""
        return self._move("begun")

    def end(self) -> bool:
        """In the thread: the work is done. False where nobody takes the result."""
        return self._move("done")

    def leave(self) -> bool:
        """The task does not wait any longer; False where it must: the thread has begun, or is done."""
        with self._lock:
            if self._state != "open":
                return False
            self._state = "left"
            return True

    def _move(self, state: str) -> bool:
        with self._lock:
            if self._state == "left":
                return False
            self._state = state
            return True


async def wait_for(
    function: Callable[[], Result], late: Callable[[Result | None], object], handover: Handover | None = None
) -> Result:
    """What a function returns that runs in a thread. A cancelled task goes without it unless the thread has begun what
    cannot be undone.

    :param late: given, in the thread, what comes when nobody waits any more; None where the function failed. It is not
        called where the function was not: see :attr:`Handover.started`.
    """
    hand = handover or Handover()
    outcome: list[Result] = []
    failed: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        if not hand.start():
            return
        try:
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001 -- raised again where it is waited for
            failed.append(error)
        taken = hand.end()
        over.set()
        if not taken:
            late(outcome[0] if outcome else None)

    try:
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_threads())
    except anyio.get_cancelled_exc_class():
        if hand.leave():
            raise
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(over.wait)
    if failed:
        raise failed[0]
    return outcome[0]


def _threads() -> anyio.CapacityLimiter:
    """The limit of this event loop."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(MAX_THREADS)
        _limiter.set(limiter)
    return limiter
