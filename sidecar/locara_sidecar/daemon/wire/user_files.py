"""Waits for the user's files, which may take forever: a folder that macOS asks the user about, a share that is gone.

File system calls run in threads. Cancelling a call frees a task that waits for one at once; the thread is abandoned,
and it disposes of a late result itself.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from locara_protocol.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

log = logging.getLogger("locara.files")

Result = TypeVar("Result")

MAX_THREADS = 16
"""Of anyio's 40 threads, so that hanging files do not stop everything else."""

_CLOSE_SECONDS = 1.0
"""A network share that is gone may block closing a file; after this time, in seconds, the thread is abandoned."""

_LOOK_SECONDS = 0.02

_Limiter = anyio.lowlevel.RunVar[anyio.CapacityLimiter]
_using: _Limiter = anyio.lowlevel.RunVar("user_files")
_closing: _Limiter = anyio.lowlevel.RunVar("closing_user_files")
"""Its own threads, so that what hangs keeps nothing else open."""


class UserFiles:
    """The waits of one call. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._cancelled = False

    def cancel(self) -> None:
        """End all current and future waits."""
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def heeding(self) -> Generator[None]:
        """Run a block whose waits end with :meth:`cancel`.

        :raises RpcError: RequestCancelled in that case.
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
    """Decides which comes first: a working thread, or the task that stops waiting for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = "open"
        self.started = False
        """Whether the thread had begun its work; does not change after :meth:`leave`."""

    def start(self) -> bool:
        """Called first in the thread. False if nobody waits any more."""
        with self._lock:
            self.started = self._state != "left"
            return self.started

    def begin(self) -> bool:
        """Called in the thread before something irreversible. False if nobody waits any more."""
        return self._move("begun")

    def end(self) -> bool:
        """Called in the thread when the work is done. False if nobody takes the result."""
        return self._move("done")

    def leave(self) -> bool:
        """Called when the task wants to stop waiting; False if it must wait: the thread has begun, or is done."""
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
    function: Callable[[], Result],
    late: Callable[[Result | None], object],
    handover: Handover | None = None,
    *,
    threads: _Limiter = _using,
) -> Result:
    """Run a function in a thread and return its result. A cancelled task goes on without it, unless the thread has
    begun something irreversible.

    :param late: called in the thread with a result that nobody waits for any more; None if the function failed. It is
        not called if the function was not: see :attr:`Handover.started`.
    :param threads: limits how many such waits there are at a time.
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
        await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_limiter(threads))
    except anyio.get_cancelled_exc_class():
        if hand.leave():
            raise
        with anyio.CancelScope(shield=True):
            while not over.is_set():  # noqa: ASYNC110 -- the system may refuse a thread to wait in
                await anyio.sleep(_LOOK_SECONDS)
    if failed:
        raise failed.pop()  # or it would keep itself, and what was handed over, alive
    return outcome[0]


async def close(closes: Sequence[Callable[[], object]]) -> None:
    """Call what closes files, in a thread, and wait for that, but not long. Never raises."""
    if not closes:
        return

    def work() -> None:
        for each in closes:
            try:
                each()
            except OSError as error:  # the system has closed it nevertheless
                log.warning("a file could not be closed", exc_info=error)

    try:
        with anyio.move_on_after(_CLOSE_SECONDS):
            await wait_for(work, lambda _: None, threads=_closing)
    except RuntimeError:  # the system refuses a thread
        work()


def _limiter(threads: _Limiter) -> anyio.CapacityLimiter:
    """Return the limiter of this event loop."""
    limiter = threads.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(MAX_THREADS)
        threads.set(limiter)
    return limiter
