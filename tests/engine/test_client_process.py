"""The client with a real engine process: what only a process can show."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import anyio
import anyio.lowlevel
import pytest

from locara_sidecar.daemon.engine_host.transport.process import worker_argv
from locara_sidecar.ipc import frames, framing
from support.engines import enters, works


def test_a_process_does_jobs_is_kept_warm_and_is_killed_and_replaced(drive_process, spec):
    async def body(client):
        await works(client, spec)
        pid = client.status().pid
        assert pid not in (None, os.getpid())
        await works(client, spec)
        assert client.status().pid == pid
        killed = []

        def kill():
            os.kill(pid, signal.SIGKILL)
            killed.append(time.monotonic())

        error = await client.fails(spec(prompt="fake:sleep=encoding"), enters("encoding"), kill)
        assert time.monotonic() - killed[0] < 1
        assert (error.kind, error.data) == ("EngineCrashed", {"signal": "SIGKILL", "phase": "encoding"})
        assert client.status().state == "dead"
        await works(client, spec)
        assert client.status().pid != pid
        assert client.sandbox is not None

    drive_process(body)


def test_a_cancel_is_heard_inside_a_step_and_the_process_stays(drive_process, spec):
    async def body(client):
        slow = spec(prompt="fake:slow=30000", steps=1)
        error = await client.fails(slow, enters("denoising"), lambda: client.cancel("job-1"))
        assert error.kind == "RequestCancelled"
        pid = client.status().pid
        await works(client, spec)
        assert client.status().pid == pid

    drive_process(body, cancel_grace=20)


@pytest.mark.slow
def test_a_process_that_hangs_with_the_interpreter_lock_held_is_killed(drive_process, spec):
    async def body(client):
        error = await client.fails(spec(prompt="fake:hang=denoising"))
        assert error.kind == "EngineStalled"
        hung = client.connection
        error = await client.fails(
            spec(prompt="fake:hang=encoding"), enters("encoding"), lambda: client.cancel("job-1")
        )
        assert error.kind == "RequestCancelled"
        assert hung is None or not hung.alive
        assert client.status().pid is None

    drive_process(body, stall_timeout=0.4, cancel_grace=0.1)


def test_an_exception_s_text_which_quotes_the_prompt_stays_in_the_process(drive_process, spec):
    async def body(client):
        error = await client.fails(spec(prompt="zanzibar fake:error"))
        assert (error.kind, "zanzibar" in error.message) == ("InternalError", False)
        # the daemon takes prompts out of what it is told: here, nothing but the type is
        assert [record.msg.rpartition(": ")[2] for record in client.logs if record.logger == "engine.worker"] == [
            "RuntimeError"
        ]
        assert not any("zanzibar" in repr(record) for record in client.logs)

    drive_process(body)


@pytest.mark.parametrize("compiling", [False, True])  # an engine that compiles may start children, and they print, too
def test_what_is_printed_in_the_engine_goes_to_the_log_and_never_into_the_frames(drive_process, spec, compiling):
    async def body(client):
        await client.make(spec(prompt="fake:stderr"))
        assert len(client.of(frames.Image)) == 1
        await client.unload()
        noise = {record.msg for record in client.logs if record.logger == "engine.stderr"}
        printing = ("python stdout", "python stderr", "print", "c", *(("child",) if compiling else ()))
        assert {f"engine noise {who}" for who in printing} <= noise

    drive_process(body, settings={"compile": ""} if compiling else {})


def test_what_is_printed_before_the_worker_has_its_pipe_is_skipped(drive_process, spec):
    boot = worker_argv()
    at = boot.index("-c") + 1
    boot[at] = "import os; os.write(1, b'startup noise ' * 20_000); " + boot[at]

    async def body(client):
        await client.make(spec())
        assert len(client.of(frames.Image)) == 1

    drive_process(body, argv=boot)


def test_the_engine_starts_anywhere_and_with_almost_no_environment(drive_process, spec, tmp_path, monkeypatch):
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name not in ("HOME", "PATH", "USER"):
            monkeypatch.delenv(name)

    async def body(client):
        await client.make(spec())

    drive_process(body)


def test_the_scratch_folder_goes_with_the_process(drive_process, spec):
    async def body(client):
        await client.make(spec())
        return client.connection, os.listdir(client.connection.scratch)

    process, held = drive_process(body)
    process._life.join()
    assert held == []
    assert not os.path.exists(process.scratch)


def test_an_engine_that_is_not_there_is_unavailable_with_the_reason(drive_process, spec):
    async def body(client):
        error = await client.fails(spec())
        assert error.kind == "EngineUnavailable"
        assert "abacus" in error.data["reason"]
        assert client.status().state == "stopped"

    drive_process(body, engine="abacus")


@pytest.mark.parametrize(
    "argv", [["/nowhere/at/all"], [sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", "print(1)"]]
)
def test_an_engine_that_does_not_start_is_unavailable(drive_process, spec, argv):
    async def body(client):
        error = await client.fails(spec())
        assert error.kind == "EngineUnavailable"
        assert error.data["reason"]

    drive_process(body, argv=argv)


def test_an_engine_that_was_asked_to_end_and_does_not_is_killed_when_the_daemon_ends(drive_process, spec, monkeypatch):
    monkeypatch.setattr("locara_sidecar.daemon.engine_host.client._EXIT_GRACE", 30)
    monkeypatch.setattr("locara_sidecar.daemon.engine_host.client._GONE_AFTER", 30)
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

    drive_process(body, argv=[*start, boot.replace("main(int", f"exec({stays!r}); main(int"), parent, one, other])


def test_a_dead_engine_is_told_before_its_pipe_was_read(drive_process, spec):
    async def body(client):
        await works(client, spec)
        process = client.connection
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while process.alive:  # the event loop does not run in here
            assert time.monotonic() < deadline
        assert client.status().state == "dead"
        assert client.status().pid is None

    drive_process(body)


@pytest.mark.parametrize(
    ("fault", "data"),
    [("crash", {"status": 70}), ("abort", {"signal": "SIGABRT"}), ("segv", {"signal": "SIGSEGV"})],
)
def test_a_crash_tells_how_the_process_ended(drive_process, spec, fault, data):
    async def body(client):
        error = await client.fails(spec(prompt=f"fake:{fault}=denoising"))
        assert (error.kind, error.data) == ("EngineCrashed", {**data, "phase": "denoising"})
        await works(client, spec)

    drive_process(body)


HOST = """
import anyio, os, signal, sys
from locara_sidecar.ipc import frames, framing
from locara_sidecar.daemon.engine_host.client import EngineClient
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
            time.sleep(0.3)  # until the fault occurs
            daemon.kill()
            assert gone(engine, 2.0)
        finally:
            os.close(engine)


def gone(pidfd, seconds):
    import select

    return bool(select.select([pidfd], [], [], seconds)[0])
