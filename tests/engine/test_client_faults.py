"""An engine that crashes, hangs, fails or is told to stop: what the job gets, and that the next one works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import anyio
import anyio.lowlevel
import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.engine import frames, framing
from locara_sidecar.engine.process import EngineProcess, worker_argv

PHASES = ("loading", "encoding", "denoising", "decoding")


def enters(phase):
    return lambda event: isinstance(event, frames.PhaseStarted) and event.phase == phase


async def works(client, spec):
    done = await client.make(spec(job="next"))
    assert len(client.of(frames.Image)) == 1
    return done


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_engine_fails_its_job_at_once_and_the_next_one_works(drive, spec, phase):
    async def body(client):
        killed = []

        def kill():
            os.kill(client.status().pid, signal.SIGKILL)
            killed.append(time.monotonic())

        error = await client.fails(spec(prompt=f"fake:sleep={phase}"), enters(phase), kill)
        assert time.monotonic() - killed[0] < 1
        assert (error.kind, error.data) == ("EngineCrashed", {"signal": "SIGKILL", "phase": phase})
        assert client.status().state == "dead"
        await works(client, spec)

    drive(body)


DIES_AT_A_JOB = """
from locara_sidecar.engine import worker
def dies(*_):
    worker.os._exit(9)
worker.run_job = dies
"""


def test_an_engine_that_dies_at_the_sight_of_every_job_is_tried_twice_and_no_more(drive, spec, monkeypatch):
    started = count_engines(monkeypatch)
    *start, boot, parent, one, other = worker_argv()

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["status"]) == ("EngineCrashed", 9)
        assert len(started) == 2

    drive(body, argv=[*start, boot.replace("main(int", f"exec({DIES_AT_A_JOB!r}); main(int"), parent, one, other])


def test_a_new_engine_is_not_started_before_the_last_one_has_gone(drive, spec, monkeypatch, tmp_path):
    """Two at once could need twice the memory."""
    started = count_engines(monkeypatch)

    async def body(client):
        await works(client, spec)
        other = spec(job="other")
        folder = tmp_path / "model"
        folder.mkdir()
        await client.make(msgspec.structs.replace(other, model=msgspec.structs.replace(other.model, path=str(folder))))
        assert len(started) == 2

    drive(body)


def test_an_engine_that_was_asked_to_end_and_does_not_is_killed_when_the_daemon_ends(drive, spec, monkeypatch):
    monkeypatch.setattr("locara_sidecar.engine.client._EXIT_GRACE", 30)
    monkeypatch.setattr("locara_sidecar.engine.client._GONE_AFTER", 30)
    *start, boot, parent, one, other = worker_argv()
    stays = "from locara_sidecar.engine import worker; worker.os._exit = lambda status: worker.time.sleep(60)"

    async def body(client):
        await works(client, spec)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.unload)
            while client.status().pid is not None:
                await anyio.lowlevel.checkpoint()
            began = time.monotonic()
            client.close_now()
        assert time.monotonic() - began < 10

    drive(body, argv=[*start, boot.replace("main(int", f"exec({stays!r}); main(int"), parent, one, other])


def test_an_engine_of_another_version_takes_no_job(drive, spec):
    *start, boot, parent, one, other = worker_argv()
    newer = "from locara_sidecar.engine import frames as f; r = f.Ready; f.Ready = lambda **m: r(**m | {'version': 99})"

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, client.events) == ("EngineUnavailable", [])
        assert "versions" in error.data["reason"]

    drive(body, argv=[*start, boot.replace("main(int", f"exec({newer!r}); main(int"), parent, one, other])


def test_a_dead_engine_is_told_before_its_pipe_was_read(drive, spec):
    async def body(client):
        await works(client, spec)
        process = client._process
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while process.alive:  # the event loop has no turn in here
            assert time.monotonic() < deadline
        assert client.status().state == "dead"
        assert client.status().pid is None

    drive(body)


def test_what_a_given_up_engine_says_late_concerns_nobody(drive, spec, monkeypatch):
    started = count_engines(monkeypatch)

    async def body(client):
        await works(client, spec)
        await client.unload()
        late = frames.Ready(version=frames.VERSION, engine="fake", device="late", pid=1, sandbox=None)
        client._received(started[0], [late])
        assert client.device is None
        await works(client, spec)
        assert client.device == "cpu"

    drive(body)


def count_engines(monkeypatch):
    """Every engine process that a client starts from now on; each must find those before it gone."""
    started = []

    def start(*args, **options):
        assert not [process.pid for process in started if process.alive]
        started.append(EngineProcess(*args, **options))
        return started[-1]

    monkeypatch.setattr("locara_sidecar.engine.client.EngineProcess", start)
    return started


@pytest.mark.parametrize(
    ("fault", "data"),
    [("crash", {"status": 70}), ("abort", {"signal": "SIGABRT"}), ("segv", {"signal": "SIGSEGV"})],
)
def test_a_crash_tells_how_the_process_ended(drive, spec, fault, data):
    async def body(client):
        error = await client.fails(spec(prompt=f"fake:{fault}=denoising"))
        assert (error.kind, error.data) == ("EngineCrashed", {**data, "phase": "denoising"})
        await works(client, spec)

    drive(body)


def test_what_was_finished_before_a_crash_was_reported(drive, spec):
    async def body(client):
        await client.fails(spec(prompt="fake:kill=denoising", steps=6))
        assert [step.step for step in client.of(frames.Step)] == [1, 2]

    drive(body)


def test_the_death_of_an_idle_engine_shows_at_once_and_costs_no_job(drive, spec):
    async def body(client):
        await client.make(spec())
        os.kill(client.status().pid, signal.SIGKILL)
        await works(client, spec)
        os.kill(client.status().pid, signal.SIGKILL)
        with anyio.fail_after(1):
            await client._gone.wait()
        assert client.status().state == "dead"

    drive(body)


@pytest.mark.parametrize("fault", ["hang", "sleep"])
def test_an_engine_without_progress_is_called_stuck_and_then_killed(drive, spec, fault):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            errors = []

            async def fail():
                errors.append(await client.fails(spec(prompt=f"fake:{fault}=denoising")))

            tasks.start_soon(fail)
            with anyio.fail_after(5):
                while client.status().state != "stuck":  # noqa: ASYNC110  nothing tells when silence begins
                    await anyio.sleep(0.01)
        assert errors[0].kind == "EngineStalled"
        assert errors[0].data["phase"] == "denoising"
        assert client.status().state == "dead"
        await works(client, spec)

    drive(body, stall_timeout=0.4)


def test_heartbeats_keep_a_long_phase_alive(drive, spec):
    async def body(client):
        await client.make(spec(prompt="fake:slow=1500", steps=1))  # nothing else is told within a step

    drive(body, stall_timeout=0.6)


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancel_stops_the_job_in_every_phase_and_keeps_the_engine(drive, spec, phase):
    slow = {"step_ms": "5000", "load_ms": "5000", "encode_ms": "5000", "decode_ms": "5000"}

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

    drive(body, settings={name: value for name, value in slow.items() if name.startswith(phase_setting(phase))})


def test_a_failure_that_crosses_a_cancel_is_a_cancel(drive, spec):
    *start, boot, parent, one, other = worker_argv()
    fails = (
        "from locara_sidecar.engine import frames, job; job.stopped = lambda name, *_: "
        "frames.Failed(job=name, kind='InvalidOutput', message='', data={})"
    )

    async def body(client):
        error = await client.fails(spec(), enters("denoising"), lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"

    argv = [*start, boot.replace("main(int", f"exec({fails!r}); main(int"), parent, one, other]
    drive(body, argv=argv, settings={"step_ms": "500"})


def phase_setting(phase):
    return {"loading": "load", "encoding": "encode", "denoising": "step", "decoding": "decode"}[phase]


def test_a_cancel_inside_a_step_does_not_disturb_the_next_job(drive, spec):
    async def body(client):
        def second(event):
            return isinstance(event, frames.Step) and event.step == 2

        await client.make(spec())
        expected = client.of(frames.Image)[0].data
        pid = client.status().pid
        await client.fails(spec(steps=30), second, lambda: client.cancel("job-1"))
        assert len(client.of(frames.Step)) < 30
        await client.make(spec())
        assert client.of(frames.Image)[0].data == expected
        assert client.status().pid == pid

    drive(body)


def test_the_images_before_a_cancel_were_reported(drive, spec):
    async def body(client):
        first = lambda event: isinstance(event, frames.Image)  # noqa: E731
        error = await client.fails(spec(count=3), first, lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        assert [image.image for image in client.of(frames.Image)] == [1]

    drive(body)


@pytest.mark.parametrize("fault", ["hang", "sleep"])
def test_a_cancel_that_the_engine_does_not_hear_kills_it(drive, spec, fault):
    async def body(client):
        spec_ = spec(prompt=f"fake:{fault}=encoding")
        error = await client.fails(spec_, enters("encoding"), lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        assert client.status().pid is None
        await works(client, spec)

    drive(body, cancel_grace=0.1)


def test_a_cancel_while_the_engine_starts_is_answered_at_once_and_the_start_goes_on(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            errors = []

            async def fail():
                errors.append(await client.fails(spec()))

            tasks.start_soon(fail)
            await anyio.wait_all_tasks_blocked()
            pid = client.status().pid
            client.cancel("job-1")
            client.cancel("job-1")
        assert errors[0].kind == "RequestCancelled"
        assert client.status().state == "starting"
        await works(client, spec)
        assert client.status().pid == pid

    drive(body, settings={"start_ms": "300"})


def test_a_cancel_for_a_finished_or_unknown_job_touches_nothing(drive, spec):
    async def body(client):
        client.cancel("job-1")
        await client.make(spec())
        client.cancel("job-1")
        await client.make(spec(job="job-2"), enters("denoising"), lambda: client.cancel("job-1"))

    drive(body)


def test_a_caller_that_goes_away_cancels_its_job(drive, spec):
    async def body(client):
        with anyio.CancelScope() as scope:
            await client.make(spec(steps=100), enters("denoising"), scope.cancel)
        assert scope.cancelled_caught
        pid = client.status().pid
        await works(client, spec)
        assert client.status().pid == pid

    drive(body)


def test_an_error_of_the_caller_stops_the_job_and_reaches_the_caller(drive, spec):
    async def body(client):
        def broken():
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await client.make(spec(steps=100), enters("denoising"), broken)
        await works(client, spec)

    drive(body)


@pytest.mark.parametrize(
    ("fault", "kind"), [("nan", "InvalidOutput"), ("oom", "InsufficientMemory"), ("error", "InternalError")]
)
def test_a_failed_job_leaves_the_engine_alive_and_the_prompt_unlogged(drive, spec, fault, kind):
    async def body(client):
        error = await client.fails(spec(prompt=f"zanzibar fake:{fault}"))
        assert error.kind == kind
        assert "zanzibar" not in error.message
        pid = client.status().pid
        await works(client, spec)
        assert client.status().pid == pid
        assert not any("zanzibar" in repr(record) for record in client.logs)

    drive(body)


def test_nonsense_from_the_engine_fails_the_job_and_replaces_the_process(drive, spec):
    async def body(client):
        def garble():
            client._process._post(client._received, client._process, [framing.FrameError("nonsense")])

        error = await client.fails(spec(steps=50), enters("denoising"), garble)
        assert error.kind == "EngineCrashed"
        await works(client, spec)

    drive(body)


def test_closing_answers_the_running_job_and_ends_the_process(drive, spec):
    async def body(client):
        async with anyio.create_task_group() as tasks:
            error = await client.fails(spec(steps=100), enters("denoising"), lambda: tasks.start_soon(client.close))
        assert error.kind == "RequestCancelled"
        assert client.status().state == "stopped"
        with pytest.raises(RpcError) as caught:
            await client.run(spec(), lambda event: None)
        assert caught.value.kind == "EngineUnavailable"

    drive(body)


def test_closing_now_kills_without_waiting(drive, spec):
    async def body(client):
        started = time.monotonic()
        error = await client.fails(spec(prompt="fake:hang=encoding"), enters("encoding"), client.close_now)
        assert error.kind == "RequestCancelled"
        assert time.monotonic() - started < 5

    drive(body)


HOST = """
import anyio, os, signal, sys
from locara_sidecar.engine import frames, framing
from locara_sidecar.engine.client import EngineClient
async def main():
    client = EngineClient("fake", on_log=lambda record: None, settings={"faults": sys.argv[1]})
    spec = framing._command_decoder.decode(bytes.fromhex(sys.argv[2])).spec
    def on_event(event):
        if isinstance(event, frames.PhaseStarted) and event.phase == sys.argv[3]:
            os.write(1, b"%d\\n" % client.status().pid)
            signal.pause()
    await client.run(spec, on_event)
anyio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="waits on a pidfd")
@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        pytest.param("", "denoising", id="writing"),
        pytest.param("fake:sleep=encoding", "encoding", id="silent"),
        pytest.param("fake:hang=encoding", "encoding", id="hung"),
    ],
)
def test_the_engine_dies_with_its_daemon(spec, fault, phase):
    job = framing.encode(frames.Generate(spec=spec(steps=200)))[4:].hex()
    with subprocess.Popen([sys.executable, "-c", HOST, fault, job, phase], stdout=subprocess.PIPE) as daemon:
        engine = os.pidfd_open(int(daemon.stdout.readline()))
        try:
            time.sleep(0.3)  # until the fault has struck
            daemon.kill()
            assert gone(engine, 2.0)
        finally:
            os.close(engine)


def gone(pidfd, seconds):
    import select

    return bool(select.select([pidfd], [], [], seconds)[0])
