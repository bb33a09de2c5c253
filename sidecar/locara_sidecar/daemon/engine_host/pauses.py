"""How long an engine has to notice that its job was cancelled: at the earliest between two blocks, on a slow device."""

from __future__ import annotations

BLOCKS = 3.0
"""Of the longest silence so far: an engine looks after each block and lets two be under way; the third is reserve."""
MOST = 20.0
"""Seconds that silence can make of it; an engine that was taken over may be silent for long on purpose."""


class Pauses:
    """The silences of the job at work, in seconds of the caller's clock.

    Signs of life come at the end of each block, but no more often than four times a second, so of quick blocks
    several go by in one silence.
    """

    def __init__(self) -> None:
        self._longest = self._last = 0.0

    def begin(self, now: float) -> None:
        """Another job begins."""
        self._longest, self._last = 0.0, now

    def heard(self, now: float, phase: str) -> None:
        """The engine gave a sign of life. Loading is heeded between two tensors, whatever the disk takes, so its
        silences say nothing of blocks."""
        if phase != "loading":
            self._longest = max(self._longest, now - self._last)
        self._last = now

    def grace(self, asked: float) -> float:
        """Seconds from a cancel to the engine's end, at least ``asked``."""
        return max(asked, min(BLOCKS * self._longest, MOST))
