"""Jobs that have ended, kept for a while with their answer and their last message.

Bounded in three ways: number of jobs, age, and bytes of results (answers that contain pictures are large). The latest
job is kept however large it is. Used on the event loop's thread only.
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
    """``outcome``: the call's answer, a result as JSON; ``at`` is by the collection's clock."""

    info: JobInfo
    last: Streamed | None
    outcome: msgspec.Raw | RpcError
    size: int
    at: float

    @property
    def state(self) -> JobState:
        """The final state."""
        return self.info.state


class EndedJobs:
    """The jobs that ended most recently.

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
            raw = jsonrpc.encode(outcome.to_wire())  # it contains finished images
            # a copy, because the raised one keeps everything alive that its traceback references
            outcome = RpcError(outcome.kind, outcome.message, retryable=outcome.retryable, **outcome.data)
        assert isinstance(raw, msgspec.Raw)
        self._jobs[job.id] = EndedJob(info, job.last, outcome, len(memoryview(raw)), self._clock())
        self._forget()

    def get(self, job_id: str) -> EndedJob | None:
        """Return the job with that id, if it is still kept."""
        self._forget()
        return self._jobs.get(job_id)

    def all(self) -> list[EndedJob]:
        """Return all, most recent first."""
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
