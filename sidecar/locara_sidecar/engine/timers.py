"""Named deadlines on the event loop."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timers:
    """At most one pending call under each name."""

    def __init__(self) -> None:
        self._pending: dict[str, asyncio.TimerHandle] = {}

    def start(self, name: str, seconds: float, call: Callable[..., None], *args: object) -> None:
        """Call ``call`` in ``seconds`` (``inf``: never), in place of what was to be called under this name."""
        self.stop(name)
        if not math.isinf(seconds):
            self._pending[name] = asyncio.get_running_loop().call_later(seconds, call, *args)

    def stop(self, *names: str) -> None:
        """Forget these calls; names that nothing is pending under are fine."""
        for name in names:
            if timer := self._pending.pop(name, None):
                timer.cancel()
