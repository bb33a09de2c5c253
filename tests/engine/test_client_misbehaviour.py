"""An engine that sends invalid messages, or none: what the job gets, and that the next one works.

No process is spawned here: ``test_client_process.py`` has real ones.
"""

from __future__ import annotations

import anyio
import pytest

from locara_sidecar.ipc import frames, framing
from support.engine_frames import enter, finish
from support.engines import Played, in_turn, silent, works

# --- an engine that says what it must not --------------------------------------------------


@pytest.mark.parametrize(
    "nonsense",
    [
        framing.FrameError("nonsense"),
        frames.Unavailable(reason="no GPU any more"),
        frames.Ready(version=frames.VERSION, engine="fake", device="another", pid=1),
    ],
)
def test_nonsense_from_the_engine_fails_the_job_and_replaces_it(drive, spec, nonsense):
    def act(connection, job):
        enter(connection, job)
        connection.say(nonsense)

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data) == ("EngineCrashed", {"reason": "protocol", "phase": "denoising"})
        assert client.status().state == "dead"
        assert not client.started[0].alive
        assert [record.level for record in client.logs] == ["error"]
        await works(client, spec)

    both = in_turn(act, finish)
    drive(body, lambda: Played(both))


def test_nonsense_from_an_engine_that_starts_makes_it_unavailable(drive, spec):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data) == ("EngineUnavailable", {"reason": "protocol"})

    drive(body, lambda: Played(on_start=lambda connection, _: connection.say(framing.FrameError("nonsense"))))


def test_what_a_given_up_engine_says_late_concerns_nobody(drive, spec):
    async def body(client):
        await works(client, spec)
        late, listener = client.connection, client.connection._on_events
        await client.unload()
        listener(late, [frames.Ready(version=frames.VERSION, engine="fake", device="late", pid=1)])
        assert client.device is None
        await works(client, spec)
        listener(late, [framing.FrameError("late")])
        late._on_gone(late)
        assert (client.device, client.status().state) == ("cpu", "idle")

    drive(body, lambda: Played(finish))


def test_what_is_said_of_another_job_concerns_nobody(drive, spec):
    def act(connection, job):
        connection.say(frames.Failed(job="job-0", kind="InvalidOutput", message="late"))
        finish(connection, job)
        connection.say(frames.Heartbeat(job=job.job))

    async def body(client):
        await works(client, spec)
        await anyio.wait_all_tasks_blocked()
        assert client.status().state == "idle"

    drive(body, lambda: Played(act))


# --- an engine that falls silent ------------------------------------------------------------


def test_an_engine_without_progress_is_called_stuck_and_then_killed(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            errors = []

            async def fail():
                errors.append(await client.fails(spec()))

            tasks.start_soon(fail)
            with anyio.fail_after(5):
                while client.status().state != "stuck":  # noqa: ASYNC110  no event says when silence begins
                    await anyio.sleep(0.01)
        assert (errors[0].kind, errors[0].data) == ("EngineStalled", {"phase": "denoising", "seconds": 0.2})
        assert client.status().state == "dead"
        assert not client.started[0].alive
        await works(client, spec)

    act = in_turn(silent, finish)
    drive(body, lambda: Played(act), stall_timeout=0.2)


def test_heartbeats_keep_a_long_phase_alive(drive, spec):
    async def body(client):
        await client.make(spec(prompt="fake:slow=1500", steps=1))  # nothing else is reported within a step

    drive(body, stall_timeout=0.6)
