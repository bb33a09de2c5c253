"""How many calls somebody is still working on, and when there are none."""

from __future__ import annotations

import anyio


class OpenCalls:
    """A count that can be waited on; used on the event loop's thread only."""

    def __init__(self) -> None:
        self._count = 0
        self._none: anyio.Event | None = None  # made when it is waited for: making one imports asyncio

    def enter(self) -> None:
        """One more."""
        self._count += 1

    def leave(self) -> None:
        """One less."""
        self._count -= 1
        if self._count == 0 and self._none is not None:
            self._none.set()
            self._none = None

    async def wait(self) -> None:
        """Return when there are none; at once if that is so already."""
        while self._count:
            if self._none is None:
                self._none = anyio.Event()
            await self._none.wait()
