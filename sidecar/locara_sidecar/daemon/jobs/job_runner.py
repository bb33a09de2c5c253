"""Runs accepted long calls on the engine one at a time, in order, and answers each once.

Owns the job queue and the transitions of its jobs. What a job does is up to its :class:`JobTask`.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread
import msgspec

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError
from locara_protocol.records import Record
from locara_sidecar.daemon.jobs.jobs import Job, JobQueue
from locara_sidecar.daemon.wire.calls import unexpected
from locara_sidecar.machine import memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.channel_messages import Streamed
    from locara_protocol.job_messages import JobState
    from locara_protocol.messages import Result
    from locara_sidecar.daemon.access.gate import Gate
    from locara_sidecar.daemon.access.model_use import ModelUse
    from locara_sidecar.daemon.engine_host.lazy import LazyEngine
    from locara_sidecar.daemon.jobs.ended_jobs import EndedJobs
    from locara_sidecar.daemon.jobs.in_flight import InFlight
    from locara_sidecar.daemon.wire.calls import Call
    from locara_sidecar.daemon.wire.outbox import Channel, Outbox


class JobTask(Protocol):
    """The work of one job. Its methods are called on the event loop: ``queued``, ``run`` if it gets a turn,
    ``close``.
    """

    def queued(self) -> None:
        """Report on the job's channel that it has been accepted."""
        ...

    async def run(self) -> Result:
        """Do the job, which now has the engine.

        :raises RpcError: RequestCancelled once the job's ``cancel_requested`` took effect, or what went wrong.
        """
        ...

    def cancel(self) -> None:
        """Stop soon, and answer after that. Called when the job has the engine and its ``cancel_requested`` was set."""
        ...

    async def aclose(self) -> None:
        """Release what was held for the job, however it ended. Never raises."""
        ...


class JobContext(Record, frozen=True):
    """What the jobs of a session share.

    :param gate: what calls may use, and what is installed.
    :param use: keeps the model in use from being collected.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    outbox: Outbox
    engine: LazyEngine
    gate: Gate
    use: ModelUse
    in_flight: InFlight
    start_task: Callable[..., object]

    def tell(self, job: Job, message: Streamed) -> None:
        """Report a job's progress, on its channel and in ``jobs.list``."""
        job.note(message)
        if job.channel is not None:
            self.outbox.push(job.channel, message)


class JobRunner:
    """The queue in front of the engine.

    :param ended: receives the jobs that end.
    :param in_flight: where accepted calls are cancelled and waited for.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    def __init__(
        self,
        queue: JobQueue,
        ended: EndedJobs,
        outbox: Outbox,
        in_flight: InFlight,
        start_task: Callable[..., object],
    ) -> None:
        self._queue = queue
        self._ended = ended
        self._outbox = outbox
        self._in_flight = in_flight
        self._start_task = start_task
        self._works: dict[str, tuple[Call, JobTask]] = {}

    def accept(self, call: Call, model: str, work_of: Callable[[Job], JobTask], weight: int = 0) -> Job:
        """Queue a call that has passed all checks; its answer comes later.

        :param model: the id of the model that it is about.
        :param work_of: creates the task of the call's job.
        :param weight: the bytes that the call holds until it has ended.
        :raises RpcError: QueueFull; no task is created then.
        """
        self._queue.check_room(weight)
        job = Job(self._queue.next_id(), call.id, call.method, call.channel)
        job.weight = weight
        job.model = model
        work = work_of(job)  # before the job is queued: one without its task would block the queue for good
        self._queue.add(job)
        self._works[job.id] = call, work
        self._in_flight.enter(call, partial(self.cancel, job))
        work.queued()
        self._pump()
        return job

    def attach(self, job: Job, channel: Channel) -> None:
        """Send the messages of a queued or running job to ``channel`` from now on, starting with its last one; its
        previous channel ends. The job's call ends together with this channel.
        """
        call, _ = self._works[job.id]
        old, call.channel, job.channel = call.channel, channel, channel
        if job.last is not None:
            self._outbox.push(channel, job.last)
        if old is not None:
            self._outbox.close_channel(old, None, replaced=True)

    def fail(self, job: Job, error: Exception) -> None:
        """Fail a queued job because something it needs is missing; a running one finds that out itself."""
        if job.state == "queued":
            self._drop(job, "failed", error)

    def cancel(self, job: Job) -> None:
        """Cancel a queued or running job: a queued one is answered now, a running one when it has stopped."""
        job.cancel_requested = True
        if job.state == "queued":
            self._drop(job, "cancelled", cancelled_error([]))
        else:
            self._works[job.id][1].cancel()

    def _pump(self) -> None:
        job = self._queue.next_waiting()
        if job is not None:
            job.move("running")
            self._start_task(self._run, job, self._works[job.id][1])

    async def _run(self, job: Job, work: JobTask) -> None:
        state: JobState = "done"
        outcome: Result | Exception
        try:
            outcome = await work.run()
        except RpcError as error:
            cancelled = error.kind == "RequestCancelled"
            if cancelled:
                error.data.setdefault("images", [])
            state, outcome = "cancelled" if cancelled else "failed", error
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            state, outcome = "failed", error
        await work.aclose()  # before the answer: the host may then remove the files
        self._finish(job, state, outcome)
        if not self._queue.all():
            with contextlib.suppress(RuntimeError):  # the system refuses a thread: do without
                await anyio.to_thread.run_sync(memory.give_back)

    def _drop(self, job: Job, state: JobState, outcome: Exception) -> None:
        """Answer a queued job now, and release what was held for it."""
        _, work = self._works[job.id]
        self._finish(job, state, outcome)
        self._start_task(work.aclose)

    def _finish(self, job: Job, state: JobState, outcome: Result | Exception) -> None:
        call, _ = self._works.pop(job.id)
        job.move(state)
        self._queue.remove(job)
        if isinstance(outcome, RpcError):
            self._ended.add(job, outcome)
            call.fail(outcome)
        elif isinstance(outcome, Exception):
            self._ended.add(job, unexpected(call.method, outcome))
            call.fail_unexpectedly(outcome)
        else:
            result = jsonrpc.encode(outcome)
            self._ended.add(job, result)
            call.succeed(result)
        self._pump()
        self._in_flight.leave(call)


def stopping(job: Job) -> Callable[[object], None]:
    """Return a progress callback, for work in a thread, that ends the work once ``job`` has been cancelled.

    The callback raises RequestCancelled.
    """

    def check(_: object) -> None:
        if job.cancel_requested:
            raise cancelled_error([])

    return check


def cancelled_error(images: list[Any]) -> RpcError:
    """Return the answer to a cancelled request; ``images`` are those finished before."""
    return RpcError("RequestCancelled", "The request was cancelled.", images=msgspec.to_builtins(images))
