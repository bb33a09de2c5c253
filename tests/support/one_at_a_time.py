"""A lock between processes: many may share it, or one may hold it alone. Those who want it alone are not starved."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # there are no such locks: everything runs together
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class Turnstile:
    """Two files in ``folder``: the lock, and a gate that everyone passes on the way to it. Whoever wants the lock alone
    stays in the gate until it has it, so that those who share it cannot keep taking it."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._lock = folder / "tests.gate", folder / "tests.lock"

    @contextlib.contextmanager
    def held(self, alone: bool) -> Generator[None]:
        """Hold the lock within the block. Forks do not inherit it; a process that dies releases it."""
        assert sys.platform != "win32"
        if fcntl is None:
            yield
            return
        with self._lock.open("a+b") as lock:
            with self._gate.open("a+b") as gate:
                fcntl.lockf(gate, fcntl.LOCK_EX)
                fcntl.lockf(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
