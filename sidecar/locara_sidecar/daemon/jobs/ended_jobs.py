"""Jobs that have ended, for a while: what they were answered with and what they told last.

Bounded three ways: so many jobs, so long, and so many bytes of results (pictures in an answer are large). The latest
one is kept however large it is. Used on the event loop's thread only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError
from locara_protocol.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.channel_messages import Streamed
    from locara_protocol.job_messages import JobInfo, JobState
    from locara_sidecar.daemon.jobs.jobs import Job

MAX_JOBS = 32
MAX_SECONDS = 600.0
MAX_BYTES = 16 * 1024 * 1024


class EndedJob(Record, frozen=True):
    """``outcome``: what the call was answered with, a result as JSON; ``at`` on the clock of the collection."""

    info: JobInfo
    last: Streamed | None
    outcome: msgspec.Raw | RpcError
    size: int
    at: float

    @property
    def state(self) -> JobState:
        """The final one."""
        return self.info.state


class EndedJobs:
    """The latest ones.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: OrderedDict[str, EndedJob] = OrderedDict()

    def add(self, job: Job, outcome: msgspec.Raw | RpcError) -> None:
        """Keep a job that is in one of its final states."""
        info = msgspec.structs.replace(job.info(), channel=UNSET)
        raw = outcome
        if isinstance(outcome, RpcError):
            raw = jsonrpc.encode(outcome.to_wire())  # finished images are in it
            # another one, because the one that was raised keeps all that its traceback reaches
            outcome = RpcError(outcome.kind, outcome.message, retryable=outcome.retryable, **outcome.data)
        assert isinstance(raw, msgspec.Raw)
        self._jobs[job.id] = EndedJob(info, job.last, outcome, len(memoryview(raw)), self._clock())
        self._forget()

    def get(self, job_id: str) -> EndedJob | None:
        """The job of that id, if it is still kept."""
        self._forget()
        return self._jobs.get(job_id)

    def all(self) -> list[EndedJob]:
        """The latest first."""
        self._forget()
        return list(reversed(self._jobs.values()))

    def _forget(self) -> None:
        now, size = self._clock(), sum(job.size for job in self._jobs.values())
        for job_id, job in list(self._jobs.items()):
            newest = len(self._jobs) == 1
            if now - job.at <= MAX_SECONDS and len(self._jobs) <= MAX_JOBS and (size <= MAX_BYTES or newest):
                return  # they ended in this order: the rest is younger
            del self._jobs[job_id]
            size -= job.size
