"""Whose turn it is: accepted long calls have the engine one at a time, in order, and each is answered once.

Owns the job queue and the moves of its jobs. What a job does is its :class:`Work`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread
import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.jobs import Job, JobQueue
from locara_sidecar.daemon.open_calls import OpenCalls
from locara_sidecar.engine import memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.image_messages import JobState
    from locara_protocol.messages import Result
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.model_choice import ModelChoice
    from locara_sidecar.daemon.model_use import ModelUse
    from locara_sidecar.daemon.outbox import Outbox
    from locara_sidecar.engine.lazy import LazyEngine


class Work(Protocol):
    """What one job does. Its methods are called on the event loop: ``queued``, ``run`` if it gets a turn, ``close``."""

    def queued(self) -> None:
        """The job has been accepted: tell its channel."""
        ...

    async def run(self) -> Result:
        """The job has the engine: do it.

        :raises RpcError: RequestCancelled once the job's ``cancel_requested`` was heeded, or what went wrong.
        """
        ...

    def cancel(self) -> None:
        """The job has the engine and its ``cancel_requested`` was set: have it stop soon, and answer once it has."""
        ...

    def close(self) -> None:
        """The job has ended, however it did: give back what was held for it."""
        ...


@dataclass(frozen=True)
class Shared:
    """What the works of a session share.

    :param use: keeps the model in use from being collected.
    :param start_task: starts a coroutine function in the daemon's task group.
    """

    outbox: Outbox
    engine: LazyEngine
    models: ModelChoice
    use: ModelUse
    start_task: Callable[..., object]


class Turns:
    """The queue in front of the engine.

    :param start_task: starts a coroutine function in the daemon's task group.
    """

    def __init__(self, queue: JobQueue, start_task: Callable[..., object]) -> None:
        self._queue = queue
        self._start_task = start_task
        self._works: dict[str, tuple[Call, Work]] = {}
        self._open = OpenCalls()

    def accept(self, call: Call, model: str, work_of: Callable[[Job], Work]) -> Job:
        """Queue a call that has passed all checks; its answer comes later.

        :param model: the id of the model that it is about.
        :param work_of: makes the work of the call's job.
        :raises RpcError: QueueFull; no work is then made.
        """
        self._queue.check_room()
        job = Job(self._queue.next_id(), call.id, call.method, call.channel)
        job.model = model
        self._queue.add(job)
        work = work_of(job)
        self._works[job.id] = call, work
        self._open.enter()
        work.queued()
        self._pump()
        return job

    def fail(self, job: Job, error: Exception) -> None:
        """What a queued job needs turned out to be missing; one that has its turn finds that out by itself."""
        if job.state == "queued":
            self._finish(job, "failed", error)

    def cancel(self, job: Job) -> None:
        """Cancel a queued or running job: a queued one is answered now, a running one when it has stopped."""
        job.cancel_requested = True
        if job.state == "queued":
            self._finish(job, "cancelled", cancelled_error([]))
        else:
            self._works[job.id][1].cancel()

    def cancel_all(self) -> None:
        for job in reversed(self._queue.all()):  # the waiting ones first, so that none of them starts
            self.cancel(job)

    async def wait_until_idle(self) -> None:
        """Return when no job is left."""
        await self._open.wait()

    def _pump(self) -> None:
        job = self._queue.next_waiting()
        if job is not None:
            job.move("running")
            self._start_task(self._run, job, self._works[job.id][1])

    async def _run(self, job: Job, work: Work) -> None:
        try:
            result = await work.run()
        except RpcError as error:
            cancelled = error.kind == "RequestCancelled"
            if cancelled:
                error.data.setdefault("images", [])
            self._finish(job, "cancelled" if cancelled else "failed", error)
        except Exception as error:  # noqa: BLE001 -- the one place that turns the unforeseen into an answer
            self._finish(job, "failed", error)
        else:
            self._finish(job, "done", result)
        if not self._queue.all():
            await anyio.to_thread.run_sync(memory.give_back)

    def _finish(self, job: Job, state: JobState, outcome: Result | Exception) -> None:
        call, work = self._works.pop(job.id)
        work.close()
        job.move(state)
        self._queue.remove(job)
        if isinstance(outcome, RpcError):
            call.fail(outcome)
        elif isinstance(outcome, Exception):
            call.fail_unexpectedly(outcome)
        else:
            call.succeed(outcome)
        self._pump()
        self._open.leave()


def stopping(job: Job) -> Callable[[object], None]:
    """For what works in a thread and tells how far it is: a callback that ends it once ``job`` has been cancelled.

    The callback raises RequestCancelled.
    """

    def check(_: object) -> None:
        if job.cancel_requested:
            raise cancelled_error([])

    return check


def cancelled_error(images: list[Any]) -> RpcError:
    """The answer to a cancelled request; ``images`` are those that were finished before."""
    return RpcError("RequestCancelled", "The request was cancelled.", images=msgspec.to_builtins(images))
