"""Speeds of step caching: a part of the steps is not computed, but foretold from the computed ones before it.

A speed is a fixed pattern of computed steps, the same on every engine, so that the same job makes the same picture;
``machine/supported.py`` tells which jobs can have it, ``tests/bench/README.md`` what the patterns cost.
"""

from __future__ import annotations

from typing import NamedTuple


class Pattern(NamedTuple):
    """Which steps are computed: the first ``warmup`` ones, then the second one after them and every ``interval``-th."""

    warmup: int
    interval: int

    def computes(self, step: int) -> bool:
        """Whether a step, from 0, is computed."""
        return step < self.warmup or (step - self.warmup - 1) % self.interval == 0


SPEEDS: dict[str, Pattern] = {"balanced": Pattern(warmup=6, interval=3), "fast": Pattern(warmup=4, interval=4)}
