"""Jobs: their states, the queue, and which one runs. Pure bookkeeping; ``generation.py`` does the work."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import UNSET

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import DiffusionStep, JobInfo, JobState
from locara_protocol.messages import JobCounts

if TYPE_CHECKING:
    from locara_sidecar.daemon.outbox import Channel

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    "queued": frozenset({"running", "cancelled", "failed"}),
    "running": frozenset({"done", "cancelled", "failed"}),
    "done": frozenset(),
    "cancelled": frozenset(),
    "failed": frozenset(),
}


class Job:
    """One accepted long call."""

    def __init__(self, job_id: str, request_id: int | str, method: str, channel: Channel | None) -> None:
        self.id = job_id
        self.request_id = request_id
        self.method = method
        self.channel = channel
        self.state: JobState = "queued"
        self.model: str | None = None
        self.last: DiffusionStep | None = None
        self.cancel_requested = False

    def move(self, state: JobState) -> None:
        """Go to another state.

        :raises ValueError: for a step that :data:`TRANSITIONS` does not have.
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a job cannot go from {self.state} to {state}")
        self.state = state

    def info(self) -> JobInfo:
        return JobInfo(
            job_id=self.id,
            method=self.method,
            state=self.state,
            request_id=self.request_id,
            channel=UNSET if self.channel is None else self.channel.id,
            model=UNSET if self.model is None else self.model,
            last=UNSET if self.last is None else self.last,
        )


class JobQueue:
    """Accepted jobs in order: at most one runs, at most ``limit`` wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = itertools.count(1)
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def next_id(self) -> str:
        return f"job-{next(self._numbers)}"

    def check_room(self) -> None:
        """:raises RpcError: QueueFull."""
        waiting = sum(job.state == "queued" for job in self._jobs.values())
        # a job that is accepted while nothing runs starts at once and takes no waiting place
        if waiting >= self._limit + (self.running() is None):
            raise RpcError(
                "QueueFull", f"{waiting} jobs are waiting already; try again when one is done.", maxQueue=self._limit
            )

    def add(self, job: Job) -> None:
        self._jobs[job.id] = job

    def remove(self, job: Job) -> None:
        """Forget a job that has been answered."""
        self._jobs.pop(job.id, None)

    def running(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "running"), None)

    def next_waiting(self) -> Job | None:
        """The job to start now, or None when one runs or none waits."""
        if self.running() is not None:
            return None
        return next((job for job in self._jobs.values() if job.state == "queued"), None)

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def by_request(self, request_id: int | str) -> Job | None:
        # 1 and "1" are different ids, and True never gets here
        return next((job for job in self._jobs.values() if job.request_id == request_id), None)

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def counts(self) -> JobCounts:
        running = sum(job.state == "running" for job in self._jobs.values())
        queued = sum(job.state == "queued" for job in self._jobs.values())
        return JobCounts(running=running, queued=queued)
