"""Deadlines on the event loop."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from locara_sidecar.daemon.engine_host.supervision.lifecycle import Deadline


class Timers:
    """At most one pending call per deadline."""

    def __init__(self) -> None:
        self._pending: dict[Deadline, asyncio.TimerHandle | None] = {}

    def keep(self, wanted: AbstractSet[Deadline], start: Callable[[Deadline], None]) -> None:
        """Drop all deadlines but these; start those that do not run yet with ``start``."""
        for deadline in self._pending.keys() - wanted:
            if timer := self._pending.pop(deadline):
                timer.cancel()
        for deadline in wanted - self._pending.keys():
            start(deadline)

    def start(self, deadline: Deadline, seconds: float, call: Callable[..., None], *args: object) -> None:
        """Call ``call`` in ``seconds`` (``inf``: never), replacing the pending call."""
        if timer := self._pending.get(deadline):
            timer.cancel()
        never = math.isinf(seconds)
        self._pending[deadline] = None if never else asyncio.get_running_loop().call_later(seconds, call, *args)
