"""Calls still in progress after their line was handled: jobs, downloads, picked files.

The end of the session waits for each. Long ones can be cancelled, and are limited where they are accepted: by the job
queue, by the number of downloads. *Short* ones run to completion in threads, and a host can send them faster than they
finish: while :data:`MAX_SHORT` of them are in flight, no further line is looked at until one has been answered. Long
ones do not count, so that a cancel never waits in the pipe behind the call that it cancels; at most it waits for a
disk.

Used on the event loop's thread only.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio

from locara_protocol.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from locara_sidecar.daemon.wire.calls import Call

log = logging.getLogger("locara.calls")

MAX_SHORT = 32
"""Less than anyio's 40 threads, so that whatever a host asks for, jobs can read and save their files."""


class InFlight:
    """The calls in flight of one session.

    :param start_task: starts a coroutine function in the daemon's task group.
    :param on_room: called when there is room for a short call again.
    """

    def __init__(self, start_task: Callable[..., object], on_room: Callable[[], object] = lambda: None) -> None:
        self._start_task = start_task
        self._on_room = on_room
        self._short = 0
        self._cancels: dict[int | str, Callable[[], None] | None] = {}  # by request id: 1 and "1" differ
        self._none: anyio.Event | None = None  # created when it is waited for: creating one imports asyncio

    def enter(self, call: Call, cancel: Callable[[], None] | None = None) -> None:
        """Add a call.

        :param cancel: makes it end soon; None for a short call, which runs to completion.
        """
        self._cancels[call.id] = cancel
        self._short += cancel is None

    def is_full(self) -> bool:
        """Whether too many short calls are in flight to accept another."""
        return self._short >= MAX_SHORT

    def leave(self, call: Call) -> None:
        """Remove a call that has been answered, or is just being answered."""
        full = self.is_full()
        self._short -= self._cancels.pop(call.id) is None
        if not self._cancels and self._none is not None:
            self._none.set()
            self._none = None
        if full and not self.is_full():
            self._on_room()

    def answer(self, call: Call, work: Callable[[], Awaitable[Any]], cancel: Callable[[], None] | None = None) -> None:
        """Answer a call with what ``work`` returns or raises, in a separate task."""
        self.enter(call, cancel)
        self._start_task(self._answer, call, work)

    async def _answer(self, call: Call, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            call.succeed(await work())
        except RpcError as error:
            call.fail(error)
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            call.fail_unexpectedly(error)
        finally:
            self.leave(call)

    def cancel(self, request_id: int | str) -> None:
        """Cancel the call with a request id, if there is one and it can be cancelled."""
        cancel = self._cancels.get(request_id)
        if cancel is not None:
            cancel()

    def cancel_all(self) -> None:
        """Cancel everything that can be, latest first, so that no job starts because the one before it ended. A cancel
        that raises does not stop the others.
        """
        for request_id in reversed(list(self._cancels)):
            try:
                self.cancel(request_id)
            except Exception as error:
                log.error("a call could not be cancelled", exc_info=error)  # noqa: TRY400 -- leaves the text out

    async def wait_until_idle(self) -> None:
        """Return when no calls are in flight."""
        while self._cancels:
            if self._none is None:
                self._none = anyio.Event()
            await self._none.wait()
