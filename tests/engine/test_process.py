"""The process and its pipes, without the client."""

from __future__ import annotations

import os
import sys
import threading
import time

import anyio
import psutil
import pytest

from locara_sidecar.daemon.engine_host.transport.process import MAX_AHEAD, EngineProcess, worker_argv
from locara_sidecar.ipc import frames, framing


def run(argv, act, **opening):
    """Start ``argv`` with an opening command of these members, ``act`` on the process, wait until it is gone; return
    the process, its events and lines."""
    events, lines = [], []

    async def main():
        over = anyio.Event()
        process = EngineProcess(
            argv,
            lambda scratch: start(scratch=scratch, **opening),
            on_events=lambda _, batch: events.extend(batch),
            on_gone=lambda _: over.set(),
            on_failed=failed,
            on_lines=lines.extend,
        )
        with anyio.fail_after(20):
            while process.pid is None:  # noqa: ASYNC110 -- a thread sets it
                await anyio.sleep(0.005)
            act(process)
            await over.wait()
        assert not process.alive
        return process

    def failed(_, error):
        raise error

    return anyio.run(main), events, lines


def test_who_hears_that_an_engine_is_gone_finds_its_scratch_folder_gone():
    """A daemon that waited for its engine ends right then, and used to leave the folder behind."""
    there = []

    async def main():
        over = anyio.Event()

        def gone(process):
            there.append(os.path.exists(process.scratch))
            over.set()

        def failed(_, error):
            raise error

        EngineProcess(
            [sys.executable, "-c", "open('kept', 'w')"],
            lambda scratch: start(scratch=scratch),
            on_events=lambda *_: None,
            on_gone=gone,
            on_failed=failed,
            on_lines=lambda _: None,
        )
        with anyio.fail_after(20):
            await over.wait()

    anyio.run(main)
    assert there == [False]


def held_up(argv, act):
    """Delay a process's first command until ``act`` has returned; return the process and its failures."""
    release, failures = threading.Event(), []

    def opening(scratch):
        assert release.wait(20)
        return start(scratch=scratch)

    async def main():
        over = anyio.Event()
        process = EngineProcess(
            argv,
            opening,
            on_events=lambda *_: None,
            on_gone=lambda _: over.set(),
            on_failed=lambda _, error: (failures.append(error), over.set()),
            on_lines=lambda _: None,
        )
        act(process)
        release.set()
        with anyio.fail_after(20):
            await over.wait()
        process._life.join()
        return process

    return anyio.run(main), failures


def test_one_that_is_killed_before_it_began_never_begins(tmp_path):
    left = tmp_path / "left"
    argv = [sys.executable, "-c", f"open({str(left)!r}, 'w')"]
    process, failures = held_up(argv, lambda process: process.kill())
    assert [type(error) for error in failures] == [OSError]
    assert (process.pid, process.alive, left.exists()) == (None, False, False)
    assert not os.path.exists(process.scratch)


def test_one_that_is_being_started_is_alive_and_its_folder_goes_when_it_is_not_wanted():
    def act(process):
        assert process.alive
        process.discard_scratch()

    process, failures = held_up([sys.executable, "-c", "pass"], act)
    assert [type(error) for error in failures] == [OSError]
    assert not process.alive
    assert not os.path.exists(process.scratch)


def test_commands_that_come_before_the_process_does_follow_the_first():
    process, failures = held_up(worker_argv(), lambda process: (process.send(frames.Exit()), process.close_input()))
    assert (failures, process.exit_data()) == ([], {"status": 0})


def start(**changes):
    return frames.Start(**({"version": frames.VERSION, "engine": "fake", "scratch": "/nowhere"} | changes))


def test_the_worker_ends_when_its_pipe_closes():
    process, events, _ = run(worker_argv(), lambda process: process.close_input())
    assert process.exit_data() == {"status": 0}
    assert not any(isinstance(event, framing.FrameError) for event in events)


def test_the_worker_ends_when_its_pipe_closes_in_the_middle_of_a_job(spec):
    def act(process):
        process.send(frames.Generate(spec=spec()))
        process.close_input()

    process, _, _ = run(worker_argv(), act, settings={"step_ms": "60000"})
    assert process.exit_data() == {"status": 0}


@pytest.mark.skipif(os.name != "posix", reason="a priority class is given at the start instead")
def test_the_worker_steps_back_behind_the_daemon():
    seen = []

    def act(process):
        worker = psutil.Process(process.pid)
        while worker.is_running() and worker.nice() == os.nice(0):
            os.sched_yield()
        seen.append(worker.nice())
        process.close_input()

    run(worker_argv(), act)
    assert seen == [min(19, os.nice(0) + 1)]


def test_the_worker_refuses_a_daemon_of_another_version():
    _, events, _ = run(worker_argv(), lambda process: None, version=frames.VERSION + 1)
    [refusal] = events
    assert refusal == frames.Unavailable(reason=frames.OTHER_VERSION)


def test_the_worker_ends_on_a_command_that_is_none():
    process, _, _ = run(worker_argv(), lambda process: process._outgoing.put(b"\xff\xff\xff\xff"))
    assert process.exit_data() == {"status": 2}


def test_a_start_that_fails_after_the_process_has_begun_leaves_none(monkeypatch):
    """For instance because an update has taken away a module that is imported then."""
    failures, started = [], []

    def lacking():
        started.append(process.pid)
        raise ImportError

    async def main():
        nonlocal process
        over = anyio.Event()

        def failed(_, error):
            failures.append(error)
            over.set()

        process = EngineProcess(
            [sys.executable, "-c", "import time; time.sleep(1000)"],
            lambda scratch: start(scratch=scratch),
            on_events=lambda *_: None,
            on_gone=lambda _: None,
            on_failed=failed,
            on_lines=lambda _: None,
        )
        with anyio.fail_after(20):
            await over.wait()

    process = None
    monkeypatch.setattr("locara_sidecar.daemon.engine_host.transport.process.priority.answer_promptly", lacking)
    anyio.run(main)
    left = psutil.pid_exists(started[0])
    if left:
        psutil.Process(started[0]).kill()
    assert ([type(error) for error in failures], left) == ([ImportError], False)


def test_commands_never_block_even_if_nobody_reads_them():
    def act(process):
        for _ in range(100):
            process.send(start(scratch="x" * 65536))
        process.kill()

    process, _, _ = run([sys.executable, "-c", "import time; time.sleep(1000)"], act)
    assert process.exit_data() == {"signal": "SIGKILL"}


def test_children_of_the_engine_go_with_it():
    code = "import os, subprocess; subprocess.Popen(['sleep', '1000']); os.write(2, b'ready\\n'); os._exit(5)"
    process, _, lines = run([sys.executable, "-c", code], lambda process: None)
    process._threads[1].join()  # its stderr ends, because nobody holds the pipe any more
    assert process.exit_data() == {"status": 5}
    assert lines in ([], ["ready"])


def test_frames_that_a_process_wrote_before_it_died_are_read(tmp_path):
    events = [frames.Log(level="info", logger="x", msg=str(i) * 1000) for i in range(200)]
    (tmp_path / "frames").write_bytes(framing.PREAMBLE + b"".join(map(framing.encode, events)))
    code = f"import os, shutil; shutil.copyfileobj(open({str(tmp_path / 'frames')!r}, 'rb'), os.fdopen(1, 'wb'))"
    _, received, _ = run([sys.executable, "-c", code], lambda process: None)
    assert received == events


def settle():
    for thread in threading.enumerate():
        if thread.name.startswith("engine-"):
            thread.join()


def test_no_descriptor_is_left_open():
    if not os.path.isdir("/proc/self/fd"):
        return
    settle()
    before = len(os.listdir("/proc/self/fd"))
    run([sys.executable, "-c", "pass"], lambda process: None)
    settle()
    assert len(os.listdir("/proc/self/fd")) == before


FLOOD = """
import sys, time
from locara_sidecar.ipc import frames, framing
out = sys.stdout.buffer
out.write(framing.PREAMBLE)
frame = framing.encode(frames.Log(level="info", logger="a", msg="x" * 250_000, fields={}))
for _ in range(400):
    out.write(frame)
out.flush()
time.sleep(300)
"""


def test_an_engine_that_says_more_than_is_looked_at_waits():
    """The event loop is busy meanwhile; of the 100 MB, a fifth may be read."""
    taken = []

    def wait(process):
        read = process._post
        process._post = lambda *call: (taken.append(call), read(*call))
        engine, deadline = psutil.Process(process.pid), time.monotonic() + 60
        before, since = None, time.monotonic()
        while time.monotonic() - since < 1:
            assert time.monotonic() < deadline
            now = len(taken), sum(engine.cpu_times()[:2])
            if now != before or now[0] == 0:
                before, since = now, time.monotonic()
            time.sleep(0.05)
        assert 0 < len(taken) <= MAX_AHEAD
        process.kill()

    run([sys.executable, "-c", FLOOD], wait)
