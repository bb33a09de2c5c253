"""Cancelled and failed jobs, and the end of the client: what the job gets, and that the next one works.

No process is spawned here: ``test_client_process.py`` has real ones.
"""

from __future__ import annotations

import threading
import time

import anyio
import anyio.lowlevel
import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host.client import EngineClient
from locara_sidecar.daemon.engine_host.supervision import pauses
from locara_sidecar.ipc import frames
from support.engine_frames import finish, ready
from support.engines import Engines, FakeEngine, Played, enters, in_turn, silent, works

PHASES = ("loading", "encoding", "denoising", "decoding")
CLIENT = "locara_sidecar.daemon.engine_host.client"


# --- a cancel -------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_stops_the_job_in_every_phase_and_keeps_the_engine(drive, spec, phase):
    async def body(client):
        started = []

        def cancel():
            started.append(time.monotonic())
            client.cancel("another job")
            client.cancel("job-1")
            client.cancel("job-1")

        error = await client.fails(spec(steps=1), enters(phase), cancel)
        assert error.kind == "RequestCancelled"
        assert time.monotonic() - started[0] < 1
        assert client.status().state == "idle"

    settings = {"loading": "load_ms", "encoding": "encode_ms", "denoising": "step_ms", "decoding": "decode_ms"}
    drive(body, settings={settings[phase]: "5000"})


def test_a_failure_that_crosses_a_cancel_is_a_cancel(drive, spec):
    def fails(connection, job):
        connection.say(frames.Failed(job=job.job, kind="InvalidOutput", message=""))

    async def body(client):
        error = await client.fails(spec(), enters("denoising"), lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        assert client.status().state == "idle"

    drive(body, lambda: Played(silent, on_cancel=fails))


def test_a_job_that_is_done_before_a_cancel_reaches_the_engine_is_done(drive, spec):
    async def body(client):
        await client.make(spec(), enters("denoising"), lambda: client.cancel("job-1"))
        assert len(client.of(frames.Image)) == 1

    drive(body, lambda: Played(silent, on_cancel=finish))


def test_a_cancel_inside_a_step_does_not_disturb_the_next_job(drive, spec):
    async def body(client):
        def second(event):
            return isinstance(event, frames.Step) and event.step == 2

        await client.make(spec())
        expected = client.of(frames.Image)[0].data
        await client.fails(spec(steps=30), second, lambda: client.cancel("job-1"))
        assert len(client.of(frames.Step)) < 30
        await client.make(spec())
        assert client.of(frames.Image)[0].data == expected
        assert len(client.started) == 1

    drive(body)


def test_the_images_before_a_cancel_were_reported(drive, spec):
    async def body(client):
        first = lambda event: isinstance(event, frames.Image)  # noqa: E731
        error = await client.fails(spec(count=3), first, lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        assert [image.image for image in client.of(frames.Image)] == [1]

    drive(body)


def test_a_cancel_that_the_engine_does_not_hear_kills_it(drive, spec):
    async def body(client):
        error = await client.fails(spec(), enters("denoising"), lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        assert not client.started[0].alive
        assert client.status().state == "stopped"
        await works(client, spec)

    act = in_turn(silent, finish)
    drive(body, lambda: Played(act), cancel_grace=0.05)


@pytest.mark.parametrize(("longest", "seconds"), [(0.0, 2.0), (0.4, 2.0), (0.9, 2.7), (3.0, 9.0), (60.0, 20.0)])
def test_a_cancel_waits_as_long_as_the_blocks_that_were_seen_take(longest, seconds):
    seen = pauses.Pauses()
    seen.begin(100.0)
    seen.heard(150.0, "loading")
    for now in (150.25, 150.25 + longest, 150.5 + longest):
        seen.heard(now, "denoising")
    assert seen.grace(2.0) == pytest.approx(max(seconds, 2.0))
    seen.begin(500.0)
    assert seen.grace(2.0) == 2.0


def test_the_grace_of_a_job_on_a_slow_device_is_the_one_that_is_waited_for(drive, spec, monkeypatch):
    monkeypatch.setattr(pauses.Pauses, "grace", lambda _, asked: asked * 1000)  # the job has slow blocks

    async def body(client):
        error = await client.fails(spec(), enters("denoising"), lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        assert len(client.started) == 1
        assert client.started[0].alive, "it was slow, and is kept"

    drive(body, lambda: Played(silent, on_cancel=slowly), cancel_grace=0.05)


def slowly(connection, job):
    """Stop a few blocks later than the shortest grace period."""
    threading.Timer(0.4, connection.say, [frames.Cancelled(job=job.job)]).start()


def test_an_engine_that_ends_as_it_is_told_to_stop_is_a_crash(drive, spec):
    """The host may want to know."""

    async def body(client):
        error = await client.fails(spec(), enters("denoising"), lambda: client.cancel("job-1"))
        assert error.kind == "EngineCrashed"
        assert len(client.started) == 1

    drive(body, lambda: Played(silent, on_cancel=lambda connection, _: connection.end(status=1)))


def test_a_cancel_while_the_engine_starts_is_answered_at_once_and_the_start_goes_on(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            errors = []

            async def fail():
                errors.append(await client.fails(spec()))

            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            client.cancel("job-1")
            client.cancel("job-1")
        assert errors[0].kind == "RequestCancelled"
        assert client.status().state == "starting"
        client.connection.say(ready(engine.heard[0]))
        await works(client, spec)
        assert len(client.started) == 1

    engine = Played(finish, on_start=lambda *_: None)
    drive(body, lambda: engine)


def test_a_cancel_while_the_last_engine_ends_starts_no_other(drive, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{CLIENT}._EXIT_GRACE", 0.05)

    async def body(client):
        await works(client, spec)
        other = msgspec.structs.replace(spec().model, path=str(tmp_path))
        job = msgspec.structs.replace(spec(job="other"), model=other)
        async with anyio.create_task_group() as tasks:
            errors = []

            async def fail():
                errors.append(await client.fails(job))

            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            client.cancel("other")
        assert errors[0].kind == "RequestCancelled"
        await client.gone.wait()
        assert len(client.started) == 1

    drive(body, lambda: Played(finish, stays=True))


def test_a_cancel_for_a_finished_or_unknown_job_touches_nothing(drive, spec):
    async def body(client):
        client.cancel("job-1")
        await client.make(spec())
        client.cancel("job-1")
        await client.make(spec(job="job-2"), enters("denoising"), lambda: client.cancel("job-1"))

    drive(body, lambda: Played(finish))


def test_a_caller_that_goes_away_cancels_its_job(drive, spec):
    async def body(client):
        with anyio.CancelScope() as scope:
            await client.make(spec(steps=100), enters("denoising"), scope.cancel)
        assert scope.cancelled_caught
        await works(client, spec)
        assert len(client.started) == 1

    drive(body)


def test_an_error_of_the_caller_stops_the_job_and_reaches_the_caller(drive, spec):
    async def body(client):
        def broken():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await client.make(spec(steps=100), enters("denoising"), broken)
        await works(client, spec)

    drive(body)


# --- a job that fails -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"), [("nan", "InvalidOutput"), ("oom", "InsufficientMemory"), ("error", "InternalError")]
)
def test_a_failed_job_leaves_the_engine_alive(drive, spec, fault, kind):
    async def body(client):
        error = await client.fails(spec(prompt=f"zanzibar fake:{fault}"))
        assert error.kind == kind
        assert "zanzibar" not in error.message
        await works(client, spec)
        assert len(client.started) == 1

    drive(body)


# --- the end --------------------------------------------------------------------------------


def test_closing_answers_the_running_job_and_ends_the_engine(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            error = await client.fails(spec(), enters("denoising"), lambda: tasks.start_soon(client.close))
        assert error.kind == "RequestCancelled"
        assert client.status().state == "stopped"
        assert not client.started[0].alive
        with pytest.raises(RpcError) as caught:
            await client.run(spec(), lambda event: None)
        assert caught.value.kind == "EngineUnavailable"

    drive(body, lambda: Played(silent))


def test_closing_now_kills_without_waiting_also_when_the_loop_has_ended(drive, spec):
    async def body(client):
        started = time.monotonic()
        error = await client.fails(spec(), enters("denoising"), client.close_now)
        assert error.kind == "RequestCancelled"
        assert not client.started[0].alive
        assert time.monotonic() - started < 5
        return client

    client = drive(body, lambda: Played(silent))
    client.close_now()  # again, without a loop


def test_what_runs_can_be_killed_when_the_loop_has_ended(spec):
    """A daemon whose event loop has failed ends this way."""
    engines = Engines(lambda: Played(finish))

    async def main():
        client = EngineClient("fake", on_log=lambda record: None, transport=engines)
        await client.run(spec(), lambda event: None)
        return client

    client = anyio.run(main)
    client.close_now()
    assert not engines.started[0].alive


@pytest.mark.parametrize("engine", [FakeEngine, lambda: Played(finish)])
def test_engines_in_memory_do_as_they_are_told(drive, spec, engine):
    """Otherwise the tests that use them would show nothing."""

    async def body(client):
        await works(client, spec)
        assert len(client.started) == 1
        assert client.connection.alive
        assert await client.unload()
        assert client.started[0].exit_data() == {"status": 0}

    drive(body, engine)
