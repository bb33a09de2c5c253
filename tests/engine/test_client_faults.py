"""An engine that ends, or that cannot be started: what the job gets, and that the next one works.

No process is spawned here: ``test_client_process.py`` has real ones. ``test_client_misbehaviour.py`` has engines that
send nonsense or fall silent.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host.client import EngineClient
from locara_sidecar.daemon.engine_host.transport.in_memory import InMemory, InMemoryConnection
from locara_sidecar.ipc import frames
from support.engine_frames import enter, finish, ready
from support.engines import Played, dies, in_turn, works

PHASES = ("loading", "encoding", "denoising", "decoding")
CLIENT = "locara_sidecar.daemon.engine_host.client"


# --- an engine that ends --------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"signal": "SIGKILL"}, {"status": 70}])
@pytest.mark.parametrize("phase", PHASES)
def test_an_engine_that_ends_fails_its_job_and_the_next_one_works(drive, spec, phase, how):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data) == ("EngineCrashed", {**how, "phase": phase})
        assert client.status().state == "dead"
        assert client.device is None
        await works(client, spec)

    act = in_turn(dies(phase, **how), finish)
    drive(body, lambda: Played(act))


def test_an_engine_that_dies_at_the_sight_of_every_job_is_tried_twice_and_no_more(drive, spec):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["status"]) == ("EngineCrashed", 9)
        assert len(client.started) == 2

    drive(body, lambda: Played(dies(None, status=9)))


def test_a_job_that_an_engine_dies_before_is_done_by_the_next(drive, spec):
    async def body(client):
        await works(client, spec)
        assert len(client.started) == 2

    act = in_turn(dies(None, status=9), finish)
    drive(body, lambda: Played(act))


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_engine_that_ends_as_it_starts_is_unavailable_unless_nobody_waits(drive, spec, cancelled):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            errors = []

            async def fail():
                errors.append(await client.fails(spec()))

            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            await anyio.lowlevel.checkpoint()
            if cancelled:
                client.cancel("job-1")
            client.connection.end(status=3)
        assert errors[0].kind == ("RequestCancelled" if cancelled else "EngineUnavailable")
        await client.gone.wait()
        assert client.status().state == "dead"
        await works(client, spec)

    start = in_turn(lambda *_: None, lambda connection, command: connection.say(ready(command)))
    drive(body, lambda: Played(finish, on_start=start))


def interrupted(connection, job):
    """macOS stops the job's work on the GPU, and MLX reports it."""
    enter(connection, job)
    data = {"reason": "gpuInterrupted", "retryable": True}
    connection.say(frames.Failed(job=job.job, kind="EngineUnavailable", message="Ended.", data=data))


def test_an_engine_whose_work_macos_refused_is_replaced_before_the_next_job(drive, spec):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.retryable, error.data["reason"]) == ("EngineUnavailable", True, "gpuInterrupted")
        assert len(client.started) == 1
        await works(client, spec)
        assert len(client.started) == 2
        await works(client, spec)
        assert len(client.started) == 2

    acts = in_turn(interrupted, finish)  # counted across both processes
    drive(body, lambda: Played(acts))


def test_another_fault_that_an_engine_names_keeps_it(drive, spec):
    def out_of_memory(connection, job):
        enter(connection, job)
        connection.say(frames.Failed(job=job.job, kind="InsufficientMemory", message="Too little."))

    async def body(client):
        assert (await client.fails(spec())).kind == "InsufficientMemory"
        await works(client, spec)
        assert len(client.started) == 1

    drive(body, lambda: Played(in_turn(out_of_memory, finish)))


def test_what_was_finished_before_a_crash_was_reported(drive, spec):
    def act(connection, job):
        enter(connection, job)
        connection.say(*(frames.Step(job=job.job, image=1, step=step, steps=6) for step in (1, 2)))
        connection.end(signal="SIGKILL")

    async def body(client):
        await client.fails(spec(steps=6))
        assert [step.step for step in client.of(frames.Step)] == [1, 2]

    drive(body, lambda: Played(act))


def test_the_death_of_an_idle_engine_shows_at_once_and_costs_no_job(drive, spec):
    async def body(client):
        await client.make(spec())
        client.connection.kill()
        assert client.status().state == "dead"  # although nothing has been reported yet
        await works(client, spec)
        assert len(client.started) == 2
        client.connection.kill()
        await client.gone.wait()
        assert client.status().state == "dead"

    drive(body, lambda: Played(finish))


def test_a_new_engine_is_not_started_before_the_last_one_has_gone(drive, spec, tmp_path):
    """Two at once could need twice the memory."""

    async def body(client):
        await works(client, spec)
        other = msgspec.structs.replace(spec().model, path=str(tmp_path))
        await client.make(msgspec.structs.replace(spec(job="other"), model=other))
        assert len(client.started) == 2  # it also checks that only one engine lives

    drive(body, lambda: Played(finish))


class Unkillable(InMemoryConnection):
    """An engine that a driver keeps from dying."""

    def kill(self):
        pass


def test_an_engine_that_does_not_go_is_not_waited_for_for_ever(drive, spec, monkeypatch):
    monkeypatch.setattr(f"{CLIENT}._EXIT_GRACE", 0.02)
    monkeypatch.setattr(f"{CLIENT}._GONE_AFTER", 0.05)
    monkeypatch.setattr("locara_sidecar.daemon.engine_host.transport.in_memory.InMemoryConnection", Unkillable)

    async def body(client):
        await works(client, spec)
        held = client.connection
        assert await client.unload()
        assert held.alive
        assert client.status().state == "stopped"
        held.end()
        await works(client, spec)
        assert (client.status().state, client.connection is held) == ("idle", False)

    drive(body, lambda: Played(finish, stays=True))


def test_an_engine_that_does_not_end_when_it_is_told_is_killed(drive, spec, monkeypatch):
    monkeypatch.setattr(f"{CLIENT}._EXIT_GRACE", 0.02)

    async def body(client):
        await works(client, spec)
        engine = client.connection
        assert await client.unload()
        assert engine.exit_data() == {"signal": "SIGKILL"}

    drive(body, lambda: Played(finish, stays=True))


# --- an engine that cannot start ------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (FileNotFoundError(2, "No such file or directory"), "No such file or directory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_engine_that_cannot_be_started_is_unavailable(drive, spec, error, why):
    left = [error]

    def engine():
        if left:
            raise left.pop()
        return Played(finish)

    async def body(client):
        failure = await client.fails(spec())
        assert failure.kind == "EngineUnavailable"
        assert why in failure.data["reason"]
        assert client.status().state == "stopped"
        await works(client, spec)

    drive(body, engine)


def test_whatever_keeps_an_engine_from_being_started_reaches_the_caller_and_costs_one_job(drive, spec):
    left = [ZeroDivisionError()]

    def readable():
        if left:
            raise left.pop()
        return []

    async def body(client):
        with pytest.raises(ZeroDivisionError):
            await client.make(spec())
        await works(client, spec)

    drive(body, lambda: Played(finish), readable=readable)


class Late(InMemory):
    """A transport that has not started its engine yet and can be made to fail."""

    def start(self, opening, *, on_failed, **listeners):
        connection = super().start(opening, on_failed=on_failed, **listeners)
        self.fail = lambda error: on_failed(connection, error)
        return connection


async def failing_late(act, spec):
    """Let a client's first start fail after ``act`` on the client; return the job's outcome, and the client."""
    told, transport = [], Late(lambda: Played(on_start=lambda *_: None))
    client = EngineClient("fake", on_log=lambda _: None, transport=transport)

    async def job(client):
        try:
            await client.run(spec, lambda _: None)
        except RpcError as error:
            told.append(error.kind)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job, client)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            assert client.status().state == "starting"
            act(client)
            transport.fail(OSError(12, "Cannot allocate memory"))
        await client.close()
    return told, client


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda _: None, "EngineUnavailable"),
        (lambda client: client.cancel("job-1"), "RequestCancelled"),
        (lambda client: client.close_now(), "RequestCancelled"),
    ],
)
def test_a_start_that_fails_late_is_told_to_the_job_that_still_waits(act, kind, spec):
    told, client = anyio.run(failing_late, act, spec())
    assert told == [kind]
    assert client._supervisor.gone.is_set()


def test_an_engine_of_another_version_takes_no_job(drive, spec):
    engine = Played(finish, on_start=lambda connection, start: connection.say(ready(start, version=99)))

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, client.events) == ("EngineUnavailable", [])
        assert "versions" in error.message
        assert not any(isinstance(command, frames.Generate) for command in engine.heard)

    drive(body, lambda: engine)


def test_an_engine_that_says_that_it_cannot_run_here_is_unavailable(drive, spec):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["reason"]) == ("EngineUnavailable", "no GPU")
        await client.gone.wait()
        assert client.status().state == "stopped"

    drive(body, lambda: Played(on_start=lambda connection, _: connection.say(frames.Unavailable(reason="no GPU"))))


def test_an_engine_that_says_nothing_is_given_up(drive, spec):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["reason"]) == ("EngineUnavailable", "it did not start within 0.05 s")
        assert not client.started[0].alive

    drive(body, lambda: Played(on_start=lambda *_: None), start_timeout=0.05)
