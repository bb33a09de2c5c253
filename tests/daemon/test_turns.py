"""Turns at the engine: what happens around them, with stubs for the calls and their work."""

import anyio
import anyio.lowlevel

from locara_sidecar.daemon.jobs import JobQueue
from locara_sidecar.daemon.turns import Turns
from locara_sidecar.engine import memory


class Answered:
    id, method, channel = 1, "image.generate", None

    def succeed(self, result):
        assert result == "picture"


class Instant:
    def queued(self):
        pass

    def close(self):
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
            turns = Turns(queue, group.start_soon)
            for _ in range(3):
                turns.accept(Answered(), "pocket", lambda _: Instant())
            await turns.wait_until_idle()

    anyio.run(work)
    assert jobs == [0]
