"""The progress of a download, an import or a check: counted in any thread, reported at most ten times a second."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from msgspec import UNSET

from locara_protocol.model_messages import DownloadPhase, DownloadProgress

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL = 0.2  # together with the phases, which are always reported, at most ten in any second
_SPEED_SECONDS = 5.0


class Meter:
    """Bytes and files so far.

    :param tell: called with each message, never concurrently; a new phase and the end are always reported.
    """

    def __init__(self, model: str, tell: Callable[[DownloadProgress], None]) -> None:
        self._model = model
        self._tell = tell
        self._lock = threading.Lock()
        self._phase: DownloadPhase = "resolving"
        self._bytes = self._total = self._files = self._total_files = 0
        self._told = 0.0
        self._samples: deque[tuple[float, int]] = deque()

    def phase(self, phase: DownloadPhase, total: int = 0, files: int = 0, done: int = 0, done_files: int = 0) -> None:
        """Begin a phase, with ``done`` of ``total`` bytes and ``done_files`` of ``files`` done already."""
        with self._lock:
            self._phase, self._total, self._total_files = phase, total, files
            self._bytes, self._files = done, done_files
            self._samples.clear()
            self._send(time.monotonic())

    def add(self, count: int, files: int = 0) -> None:
        """Add bytes (negative to subtract) and files."""
        with self._lock:
            self._bytes += count
            self._files += files
            now = time.monotonic()
            if now - self._told >= _INTERVAL:
                self._send(now)

    def finish(self) -> None:
        """Report the final state of a phase."""
        with self._lock:
            self._send(time.monotonic())

    def _send(self, now: float) -> None:
        self._samples.append((now, self._bytes))
        while now - self._samples[0][0] > _SPEED_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        then, before = self._samples[0]
        speed = max(0, int((self._bytes - before) / (now - then))) if now > then else 0
        self._told = now
        self._tell(
            DownloadProgress(
                model=self._model,
                phase=self._phase,
                bytes=max(0, self._bytes),
                total_bytes=self._total,
                files=self._files,
                total_files=self._total_files,
                bytes_per_second=speed,
                eta_ms=(self._total - self._bytes) * 1000 // speed if speed and self._total else UNSET,
            )
        )
