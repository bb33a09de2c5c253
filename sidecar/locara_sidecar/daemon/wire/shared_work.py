"""Lets identical calls at the same time share one answer, so that a host can ask faster than the disk answers.

A call never gets an answer from before it arrived: it shares only work that has not begun. So nothing is kept, and
nothing can be out of date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable


class SharedWork:
    """Runs work for calls, one run at a time of each kind. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._running: dict[Hashable, anyio.Lock] = {}
        self._next: dict[Hashable, _Run] = {}

    async def run(self, kind: Hashable, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what ``work`` returns, or raise what it raises; it may be the work of another call of this kind.

        :param kind: equal for calls that can share an answer. One of a few: something is kept for each.
        """
        while (joined := self._next.get(kind)) is not None:
            await joined.done.wait()
            if not joined.abandoned:
                return joined.outcome()
        own = self._next[kind] = _Run()
        try:
            async with self._running.setdefault(kind, anyio.Lock()):
                del self._next[kind]  # it begins: who comes now needs to see what has changed until now
                own.result = await work()
        except Exception as error:
            own.error = error
            raise
        except BaseException:  # this call is cancelled; the others are not
            own.abandoned = True
            if self._next.get(kind) is own:
                del self._next[kind]
            raise
        finally:
            own.done.set()
        return own.result


class _Run:
    """Work that calls wait for."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self.abandoned = False

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result
