"""Keeps the pauses of Python's cyclic garbage collector short: the event loop waits for each, whatever thread it is in.

A full collection looks at every object. A daemon has some 40 000, nearly all of them from imports and so never garbage,
and each takes more than a microsecond on a slow machine. They are exempted.
"""

from __future__ import annotations

import gc
import sys

_YOUNG = 200
"""New objects after which they are looked at, and five times as many now and then. Python's own figure is 700 or more:
that made pauses of 4 ms."""

_modules: list[int] = []


def start() -> None:
    """Exempt all objects that exist, and look at new ones more often, but at fewer. Quick."""
    gc.freeze()
    gc.set_threshold(_YOUNG, 5, 10)
    _modules[:] = [len(sys.modules)]


def exempt_imports() -> None:
    """Exempt all objects that exist if modules have been imported since the last time. Quick; thread-safe.

    What is garbage at this moment, or later becomes garbage in a cycle, is never collected. That matters little: it
    happens once for each module at most, and what we keep for long makes no cycles.
    """
    if _modules and _modules[0] < (now := len(sys.modules)):
        _modules[0] = now
        gc.freeze()
