"""Jobs: their states, the queue, and which one runs. Only bookkeeping; ``generation.py`` does the work."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import UNSET

from locara_protocol.errors import RpcError
from locara_protocol.image_messages import DiffusionStep
from locara_protocol.job_messages import JobInfo, JobState
from locara_protocol.messages import JobCounts
from locara_protocol.model_messages import ModelProgress
from locara_sidecar.daemon.wire.outbox import with_preview

if TYPE_CHECKING:
    from locara_protocol.channel_messages import Streamed
    from locara_sidecar.daemon.wire.outbox import Channel

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    "queued": frozenset({"running", "cancelled", "failed"}),
    "running": frozenset({"done", "cancelled", "failed"}),
    "done": frozenset(),
    "cancelled": frozenset(),
    "failed": frozenset(),
}


MAX_HELD = 64 << 20
"""Bytes of inline pictures held by all running and waiting jobs. A single job may hold as much as a line can carry."""


class Job:
    """One accepted long call.

    ``channel`` is where its messages go now; ``last`` is the last of them, with the latest preview of its image.
    """

    def __init__(self, job_id: str, request_id: int | str, method: str, channel: Channel | None) -> None:
        self.id = job_id
        self.request_id = request_id
        self.method = method
        self.channel = channel
        self.state: JobState = "queued"
        self.model: str | None = None
        self.prompt: str | None = None
        self.size: tuple[int, int] = (0, 0)
        """Width and height of an image job's pictures, in pixels; 0 if only the engine learns them."""
        self.last: Streamed | None = None
        self.cancel_requested = False
        self.weight = 0
        """Bytes held until it has ended: pictures sent inline."""

    def move(self, state: JobState) -> None:
        """Change to another state.

        :raises ValueError: for a transition that is not in :data:`TRANSITIONS`.
        """
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a job cannot go from {self.state} to {state}")
        self.state = state

    def note(self, message: Streamed) -> None:
        """Note a message that is being sent."""
        if isinstance(message, DiffusionStep) and isinstance(self.last, DiffusionStep):
            message = with_preview(message, self.last)
        self.last = message

    def info(self) -> JobInfo:
        """Return its entry in ``jobs.list``."""
        return JobInfo(
            job_id=self.id,
            method=self.method,
            state=self.state,
            request_id=self.request_id,
            channel=UNSET if self.channel is None else self.channel.id,
            model=UNSET if self.model is None else self.model,
            prompt=UNSET if self.prompt is None else self.prompt,
            width=self.size[0] or UNSET,
            height=self.size[1] or UNSET,
            last=self.last if isinstance(self.last, DiffusionStep) else UNSET,
            last_progress=self.last if isinstance(self.last, ModelProgress) else UNSET,
        )


class JobQueue:
    """Accepted jobs in order: at most one runs, at most ``limit`` wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = itertools.count(1)
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def next_id(self) -> str:
        """Return an id that no job of the session has had."""
        return f"job-{next(self._numbers)}"

    def check_room(self, weight: int = 0) -> None:
        """Check that one more job can be accepted.

        :param weight: the bytes that it would hold while it waits.
        :raises RpcError: QueueFull.
        """
        waiting = sum(job.state == "queued" for job in self._jobs.values())
        # a job that is accepted while nothing runs starts at once and needs no place in the queue
        if waiting >= self._limit + (self.running() is None):
            raise RpcError(
                "QueueFull", f"{waiting} jobs are waiting already; try again when one is done.", maxQueue=self._limit
            )

        held = sum(job.weight for job in self._jobs.values())
        if weight and held and held + weight > MAX_HELD:
            message = f"{held} bytes of pictures are held by waiting jobs already; try again when one is done."
            raise RpcError("QueueFull", message, maxQueue=self._limit)

    def add(self, job: Job) -> None:
        """Append an accepted job."""
        self._jobs[job.id] = job

    def remove(self, job: Job) -> None:
        """Remove a job that has been answered."""
        self._jobs.pop(job.id, None)

    def running(self) -> Job | None:
        """Return the job that has the engine, if there is one."""
        return next((job for job in self._jobs.values() if job.state == "running"), None)

    def next_waiting(self) -> Job | None:
        """Return the job to start now, or None if one is running or none is waiting."""
        if self.running() is not None:
            return None
        return next((job for job in self._jobs.values() if job.state == "queued"), None)

    def get(self, job_id: str) -> Job | None:
        """Return the waiting or running job with that id, if there is one."""
        return self._jobs.get(job_id)

    def all(self) -> list[Job]:
        """Return the running and waiting jobs, in order."""
        return list(self._jobs.values())

    def counts(self) -> JobCounts:
        """Return how many run and how many wait."""
        running = sum(job.state == "running" for job in self._jobs.values())
        queued = sum(job.state == "queued" for job in self._jobs.values())
        return JobCounts(running=running, queued=queued)
