"""Jobs take turns at the engine: what happens around a turn, with stubs for the calls and their work."""

import anyio
import anyio.lowlevel
import pytest

from locara_sidecar.daemon.jobs.ended_jobs import EndedJobs
from locara_sidecar.daemon.jobs.in_flight import InFlight
from locara_sidecar.daemon.jobs.job_runner import JobRunner
from locara_sidecar.daemon.jobs.jobs import JobQueue
from locara_sidecar.daemon.wire.outbox import Outbox
from locara_sidecar.machine import memory


class Answered:
    method, channel = "image.generate", None

    def __init__(self, request_id=1):
        self.id = request_id

    def succeed(self, result):
        assert bytes(result) == b'"picture"'


class Instant:
    def queued(self):
        pass

    async def aclose(self):
        pass

    async def run(self):
        await anyio.lowlevel.checkpoint()
        return "picture"


def test_memory_is_given_back_when_the_last_job_is_over_and_not_between_two(monkeypatch):
    jobs = []

    async def work():
        async with anyio.create_task_group() as group:
            queue = JobQueue(4)
            monkeypatch.setattr(memory, "give_back", lambda: jobs.append(len(queue.all())))
            in_flight = InFlight(group.start_soon)
            turns = JobRunner(queue, EndedJobs(), Outbox(), in_flight, group.start_soon)
            for number in range(3):
                turns.accept(Answered(number), "pocket", lambda _: Instant())
            await in_flight.wait_until_idle()

    anyio.run(work)
    assert jobs == [0]


def test_a_job_whose_work_cannot_be_made_does_not_hold_up_the_queue():
    def failing(_):
        raise RuntimeError("no event loop")

    async def work():
        async with anyio.create_task_group() as group:
            queue = JobQueue(4)
            in_flight = InFlight(group.start_soon)
            turns = JobRunner(queue, EndedJobs(), Outbox(), in_flight, group.start_soon)
            with pytest.raises(RuntimeError):
                turns.accept(Answered(), "pocket", failing)
            assert queue.all() == []
            turns.accept(Answered(), "pocket", lambda _: Instant())
            with anyio.fail_after(10):
                await in_flight.wait_until_idle()

    anyio.run(work)


def test_a_call_is_cancelled_by_the_very_id_of_its_request():
    in_flight, cancelled = InFlight(lambda *_: None), []
    for request_id in (1, "1"):
        in_flight.enter(Answered(request_id), lambda request_id=request_id: cancelled.append(request_id))
    in_flight.enter(Answered(3))
    for request_id in ("1", 2, 3):
        in_flight.cancel(request_id)
    assert cancelled == ["1"]


def test_all_are_cancelled_the_latest_first_though_one_cannot_be():
    in_flight, cancelled = InFlight(lambda *_: None), []

    def failing():
        raise RuntimeError("no event loop")

    for request_id, cancel in ((1, lambda: cancelled.append(1)), (2, failing), (3, lambda: cancelled.append(3))):
        in_flight.enter(Answered(request_id), cancel)
    in_flight.cancel_all()
    assert cancelled == [3, 1]
