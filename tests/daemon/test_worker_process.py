"""The process that works on a model is started, read and ended in a thread, and a cancel leaves nothing of it."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import anyio
import msgspec
import psutil
import pytest

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import DownloadProgress
from locara_sidecar.daemon.model_methods import worker_process
from locara_sidecar.models import worker
from support.host import eventually

LAST = msgspec.json.encode(worker.WorkerResult(digest="sha256:0", bytes=0, files=0)) + b"\n"


class Request(msgspec.Struct):
    """Stands for a request; scripted workers only look for its line."""


@pytest.fixture
def begin():
    """Create a worker that takes its work, runs ``code`` and ends. Call it in an event loop."""

    def begin(code, tell=lambda _: None):
        program = f"import os, sys, time; sys.stdin.readline(); LAST = {LAST!r}\n{code}\nos._exit(0)"
        return worker_process.WorkerProcess(lambda: [sys.executable, "-c", program], Request(), tell)

    return begin


@pytest.fixture
def popen(monkeypatch):
    """Spy on processes that are started; ``popen.wait`` is called in the thread before each starts."""
    spy = SimpleNamespace(started=[], wait=lambda: None, begun=threading.Event(), threads=[])

    def start(*args, **named):
        spy.threads.append(threading.current_thread())
        spy.begun.set()
        spy.wait()
        spy.started.append(subprocess.Popen(*args, **named))
        return spy.started[-1]

    names = {name: getattr(subprocess, name) for name in ("PIPE", "DEVNULL")}
    monkeypatch.setattr(worker_process, "subprocess", SimpleNamespace(Popen=start, **names))
    return spy


async def cancelled_after(process, until):
    """Cancel the wait for a result once ``until`` returns; return the seconds that the cancel took."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(process.result)
        await anyio.to_thread.run_sync(until)
        began = time.monotonic()
        tasks.cancel_scope.cancel()
    return time.monotonic() - began


def progress(count):
    return DownloadProgress(
        model="mine", phase="verifying", bytes=count, total_bytes=9, files=1, total_files=1, bytes_per_second=1
    )


def test_a_worker_is_started_and_reaped_in_a_thread_and_answers_on_the_loop(begin, popen):
    told = []

    async def main():
        told_of = msgspec.json.encode(worker.ProgressFrame(progress(3))) + b"\n"
        process = begin(
            f"os.write(1, {told_of!r}); os.write(1, LAST)",
            lambda each: told.append((each.bytes, threading.current_thread())),
        )
        return await process.result()

    assert anyio.run(main).digest == "sha256:0"
    assert told == [(3, threading.main_thread())]
    assert threading.main_thread() not in popen.threads
    assert popen.started[0].returncode == 0


@pytest.mark.alone
def test_a_cancel_in_the_middle_of_its_work_kills_it_at_once(begin, popen, tmp_path):
    async def main():
        process = begin(f"open({str(tmp_path / 'working')!r}, 'w'); time.sleep(60)")
        return await cancelled_after(process, lambda: eventually((tmp_path / "working").exists))

    assert anyio.run(main) < 0.9 * worker_process._ENDING_SECONDS
    assert popen.started[0].returncode == -9
    assert not psutil.pid_exists(popen.started[0].pid)


def test_a_cancel_while_it_is_being_started_leaves_no_process(begin, popen):
    popen.wait = lambda: time.sleep(0.3)

    async def main():
        await cancelled_after(begin("time.sleep(60)"), popen.begun.wait)

    anyio.run(main)
    assert popen.started[0].returncode == -9
    assert not psutil.pid_exists(popen.started[0].pid)


@pytest.mark.alone
def test_a_cancel_before_it_is_started_does_not_wait_and_it_never_starts(begin, popen, monkeypatch):
    """The folder that it would be started from is away for some seconds."""
    looking, back, looked = threading.Event(), threading.Event(), threading.Event()

    def find():
        looking.set()
        back.wait(10)
        looked.set()

    monkeypatch.setattr(worker_process.program, "find", find)

    async def main():
        took = await cancelled_after(begin("os.write(1, LAST)"), looking.wait)
        back.set()
        await anyio.to_thread.run_sync(looked.wait)
        await anyio.sleep(0.1)
        return took

    assert anyio.run(main) < 0.5
    assert popen.started == []


def test_a_cancel_also_ends_what_it_has_started(begin, tmp_path):
    """An engine that it asks about a folder would go on reading."""
    there = tmp_path / "pid"
    code = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(there) + ".new"!r}, "w").write(str(child.pid))
os.rename({str(there) + ".new"!r}, {str(there)!r})
time.sleep(60)
"""

    async def main():
        await cancelled_after(begin(code), lambda: eventually(there.exists))

    anyio.run(main)
    pid = int(there.read_text())
    assert eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_without_a_thread_it_says_so_at_once(begin, popen, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    async def main():
        monkeypatch.setattr(threading.Thread, "start", refuse)
        begin("os.write(1, LAST)")

    with pytest.raises(BlockingIOError, match="no more threads"):
        anyio.run(main)
    assert popen.started == []


def test_a_worker_that_gets_no_thread_says_so_and_no_host_is_told_of_an_update(popen):
    program = """
import threading
from locara_sidecar.models import worker
def refused(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = refused
worker.main()
"""

    async def work():
        started = worker_process.WorkerProcess(lambda: [sys.executable, "-c", program], Request(), lambda _: None)
        await started.result()

    with pytest.raises(RpcError) as failure:
        anyio.run(work)
    assert failure.value.kind == "InsufficientMemory"
    assert "reason" not in failure.value.data


def test_a_worker_that_tells_more_than_is_looked_at_waits(begin, monkeypatch):
    monkeypatch.setattr(worker_process, "_MAX_AHEAD", 2)
    posted = []

    async def main():
        line = msgspec.json.encode(worker.ProgressFrame(progress(1))) + b"\n"
        process = begin(f"for _ in range(200): os.write(1, {line!r})\nos.write(1, LAST)")
        post = process._post
        process._post = lambda call, *args: (posted.append(call), post(call, *args))
        eventually(lambda: len(posted) == 2)  # meanwhile the loop looks at nothing
        time.sleep(0.3)  # noqa: ASYNC251
        ahead = len(posted)
        await process.result()
        return ahead

    assert anyio.run(main) == 2
    assert len([call for call in posted if call.__name__ == "_progress"]) == 200


def test_what_fails_as_progress_is_told_ends_the_work_and_is_raised(begin, popen):
    def fail(_):
        raise ZeroDivisionError

    async def main():
        line = msgspec.json.encode(worker.ProgressFrame(progress(1))) + b"\n"
        await begin(f"os.write(1, {line!r}); time.sleep(60)", fail).result()

    with pytest.raises(ZeroDivisionError):
        anyio.run(main)
    assert popen.started[0].returncode == -9


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors as Linux shows them")
@pytest.mark.parametrize("code", ["os.write(1, LAST)", "os._exit(3)", "os.write(1, b'{}\\n')", None])
def test_no_descriptor_and_no_thread_is_left_however_it_ends(begin, code, monkeypatch):
    async def main():
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            if code is None:
                process = worker_process.WorkerProcess(lambda: ["/no/such/python3.11"], Request(), lambda _: None)
            else:
                process = begin(code)
            with contextlib.suppress(Exception):
                await process.result()
        assert len(os.listdir("/proc/self/fd")) == before

    anyio.run(main)
    assert eventually(lambda: not [one for one in threading.enumerate() if one.name == "model-worker"])


@pytest.mark.parametrize("fails", ["reap", "ends_within"])
def test_nobody_waits_forever_for_a_worker_that_cannot_be_ended(begin, popen, monkeypatch, fails):
    def failing(*_):
        raise MemoryError

    async def main():
        process = begin("os.write(1, LAST)")
        with anyio.fail_after(20):
            await process.result()
            await process.looked()

    monkeypatch.setattr(worker_process.Child, fails, failing)
    try:
        anyio.run(main)
    finally:
        popen.started[0].communicate()
