"""The ``jobs.*`` methods: list jobs, move a job's messages to another channel, and fetch the answer of one that
ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.job_messages import AttachParams, AttachResult, JobResultParams, JobsListResult
from locara_protocol.methods import METHODS
from locara_protocol.params import parse_channel
from locara_sidecar.daemon.wire.outbox import Channel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_protocol.job_messages import JobInfo
    from locara_protocol.messages import NoParams
    from locara_sidecar.daemon.jobs.ended_jobs import EndedJobs
    from locara_sidecar.daemon.jobs.job_runner import JobRunner
    from locara_sidecar.daemon.jobs.jobs import JobQueue
    from locara_sidecar.daemon.wire.calls import Call, Calls
    from locara_sidecar.daemon.wire.outbox import Outbox


MAX_PROMPT_BYTES_LISTED = 4 << 20
"""For all prompts of a list, in bytes of JSON, however many jobs may wait: an answer stays under 8 MiB."""


class JobCalls:
    """The handlers. A session is one app's, so every job here belongs to it."""

    def __init__(self, queue: JobQueue, ended: EndedJobs, runner: JobRunner, calls: Calls, outbox: Outbox) -> None:
        self._queue = queue
        self._ended = ended
        self._runner = runner
        self._calls = calls
        self._outbox = outbox

    def list(self, _call: Call, _params: NoParams) -> JobsListResult:
        """Handle ``jobs.list``: first jobs that are running or waiting, then recently ended ones."""
        open_jobs = [job.info() for job in self._queue.all()]
        return JobsListResult(jobs=_with_room([*open_jobs, *(job.info for job in self._ended.all())]))

    def attach(self, call: Call, params: AttachParams) -> AttachResult:
        """Give a job another channel, whose first message is the job's last one.

        For a job that has ended, that message and the end frame come before the answer.

        :raises RpcError: InvalidParams for an unknown job, or a channel that a running call uses.
        """
        channel_id = parse_channel(params.channel)
        if channel_id is None:
            raise invalid_params("$.channel", "`$.channel` must be a channel's number.")
        if self._calls.channel_in_use(channel_id):
            raise invalid_params("$.channel", "A running call uses this channel; use another number.")
        job = self._queue.get(params.job_id)
        if job is not None:
            self._runner.attach(job, self._channel(channel_id, job.method))
            return AttachResult(job_id=job.id, state=job.state)
        ended = self._ended.get(params.job_id)
        if ended is None:
            raise _unknown()
        call.channel = self._channel(channel_id, ended.info.method)  # ends with this very call
        if ended.last is not None:
            self._outbox.push(call.channel, ended.last)
        return AttachResult(job_id=ended.info.job_id, state=ended.state)

    def result(self, _call: Call, params: JobResultParams) -> Any:
        """Return the answer to the job's own call, or raise its error.

        :raises RpcError: that error; InvalidParams for an unknown job; InvalidRequest for one that has not ended.
        """
        ended = self._ended.get(params.job_id)
        if ended is None and self._queue.get(params.job_id) is not None:
            raise RpcError("InvalidRequest", "The job has not ended yet; attach to it to see when it does.")
        if ended is None:
            raise _unknown()
        if isinstance(ended.outcome, RpcError):
            raise ended.outcome
        return ended.outcome

    @staticmethod
    def _channel(channel_id: int, method: str) -> Channel:
        notification = METHODS[method].notification
        assert notification is not None, method  # only such calls become jobs
        return Channel(channel_id, notification)


def _with_room(jobs: Iterable[JobInfo]) -> list[JobInfo]:
    """Leave out the prompts from the first one that does not fit."""
    left = MAX_PROMPT_BYTES_LISTED
    found: list[JobInfo] = []
    for job in jobs:
        if job.prompt is not UNSET and left >= 0:
            left -= len(memoryview(jsonrpc.encode(job.prompt)))
        found.append(job if left >= 0 else msgspec.structs.replace(job, prompt=UNSET))
    return found


def _unknown() -> RpcError:
    return invalid_params("$.jobId", "There is no such job; it ended too long ago, or never existed.")
