"""Turns an engine's bytes into events, decoding only those that somebody will look at.

Decoding is the expensive part: one byte of a frame can become an object of 72 bytes, and a frame of 64 KiB can take ten
milliseconds. So whatever would be thrown away is dropped before it is decoded: log records above a rate, and events of
any job but the current one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from locara_sidecar.daemon.engine_host.output.screen import frame_bytes
from locara_sidecar.ipc import frames, framing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOG_BYTES = 1 << 14
"""The longest log record; a line of the log has at most half of that."""
_BURST = 1000  # log records, half of which pass the screen
_RATE = 40.0  # a second, once the burst is used up
_OF_JOBS = frozenset({"phase", "heartbeat", "step", "image", "done", "loaded", "prepared", "failed", "cancelled"})


class Intake:
    """Reads the events of one engine.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = framing.FrameReader()
        self._longest = frame_bytes(None)
        self._job: str | None = None
        self._clock = clock
        self._tokens, self._last = float(_BURST), clock()
        self._dropped = 0

    def expect(self, spec: frames.AnySpec) -> None:
        """From now on, accept the events of this job only."""
        self._longest, self._job = frame_bytes(spec), spec.job

    def feed(self, data: bytes) -> Iterator[frames.Event]:
        """Yield the events that ``data`` completes.

        :raises FrameError: for anything that is not an event; nothing may be fed after that.
        """
        for body in self._reader.feed(data, self._longest):
            head = framing.head_of(body)
            if head.type == "log":
                if len(body) > _LOG_BYTES or not self._may_log():
                    self._dropped += 1
                    continue
                if self._dropped:
                    left_out = f"{self._dropped} records of the engine were left out unread"
                    yield frames.Log(level="warning", logger="engine", msg=left_out)
                    self._dropped = 0
            elif head.type in _OF_JOBS and head.job not in (None, self._job):
                continue
            yield framing.decode_event(body)

    def _may_log(self) -> bool:
        now = self._clock()
        self._tokens, self._last = min(_BURST, self._tokens + (now - self._last) * _RATE), now
        allowed = self._tokens >= 1
        self._tokens -= allowed
        return allowed
