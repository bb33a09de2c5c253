"""How long an engine gets to notice a cancel. It checks between two blocks at the earliest, which takes time on a slow
device.
"""

from __future__ import annotations

BLOCKS = 3.0
"""Multiple of the longest silence so far: an engine checks after each block and has up to two in flight; one is
spare.
"""
MOST = 20.0
"""Maximum in seconds that silences can extend it to; a hijacked engine may be silent on purpose."""


class Pauses:
    """The silences of the current job, in seconds of the caller's clock.

    Signs of life come at the end of each block, but at most four times a second, so one silence may cover several quick
    blocks.
    """

    def __init__(self) -> None:
        self._longest = self._last = 0.0

    def begin(self, now: float) -> None:
        """Start over for another job."""
        self._longest, self._last = 0.0, now

    def heard(self, now: float, phase: str) -> None:
        """Note a sign of life. Loading can be interrupted between two tensors, whatever the disk takes, so its silences
        say nothing about blocks.
        """
        if phase != "loading":
            self._longest = max(self._longest, now - self._last)
        self._last = now

    def grace(self, asked: float) -> float:
        """Return the seconds from a cancel to the engine's end, at least ``asked``."""
        return max(asked, min(BLOCKS * self._longest, MOST))
