"""Speeds with step caching: some steps are not computed but extrapolated from computed steps before them.

A speed is a fixed pattern of computed steps, the same in every engine, so that the same job makes the same picture.
``machine/supported.py`` lists the jobs that support it; ``tests/bench/README.md`` shows its cost in quality.
"""

from __future__ import annotations

from typing import NamedTuple


class Pattern(NamedTuple):
    """Which steps are computed.

    These are the first ``warmup``, then the second step after them and every ``interval``-th from there.
    """

    warmup: int
    interval: int

    def computes(self, step: int) -> bool:
        """Whether a step (from 0) is computed."""
        return step < self.warmup or (step - self.warmup - 1) % self.interval == 0


SPEEDS: dict[str, Pattern] = {"balanced": Pattern(warmup=6, interval=3), "fast": Pattern(warmup=4, interval=4)}
