"""On a machine without more threads, memory or descriptors the daemon says what it cannot do, and always ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import anyio
import psutil
import pytest

from locara_protocol.client import RemoteError, Sidecar
from locara_sidecar.daemon.images.saving import Saver
from locara_sidecar.daemon.process import limits
from locara_sidecar.daemon.wire.user_files import UserFiles
from support.host import error_of, manifest, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")]

MIB = 1 << 20

NO_MORE_THREADS = """
import threading
from locara_sidecar.daemon.methods import Methods

start, left, few = threading._start_new_thread, {left}, {few}
short = False

def limited(*args):
    global left
    if left <= 0:
        raise RuntimeError("can't start new thread")
    left -= 1
    return start(*args)

def switch(self, *call):
    global left, short
    short = not short
    left = few if short else 10**6
    return discover(self, *call)

discover, Methods._discover = Methods._discover, switch   # rpc.discover: from now on few, or as many as wanted
threading._start_new_thread = limited
from locara_sidecar.__main__ import main
main()
"""


def limited(left, few=0):
    """The daemon under a limit of threads. ``rpc.discover`` switches another one on and off: ``few`` more."""
    return [sys.executable, "-c", NO_MORE_THREADS.format(left=left, few=few), "serve", "--engine", "fake"]


def session(folder):
    """Return the lines of an opening, a job and a ping."""
    opening = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(fs={"user-folder": "read-write", "app-data": "read-write"}),
        "grants": {"user-folder": str(folder), "app-data": str(folder)},
        "processId": os.getpid(),
    }
    requests = [("initialize", opening), ("image.generate", {"prompt": "x", "options": {"steps": 1}}), ("ping", {})]
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        for number, (method, params) in enumerate(requests)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize("left", range(0, 20, 1))
def test_with_any_number_of_threads_it_says_what_it_lacks_or_answers_all_and_ends(left, tmp_path):
    with subprocess.Popen(
        limited(left), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as daemon:
        daemon.stdin.write(session(tmp_path))
        daemon.stdin.flush()
        answers = []
        for line in daemon.stdout:
            answers.append(json.loads(line))
            if len(answers) == 3:
                break
        began = time.monotonic()
        daemon.stdin.close()
        status = daemon.wait(5)
        assert time.monotonic() - began < 2
        errors = daemon.stderr.read().decode()
    assert "Traceback" not in errors
    if not answers:
        assert (status, errors) == (1, "locara-sidecar: cannot start: can't start new thread\n")
        return
    assert status == 0
    by_id = {answer["id"]: answer for answer in answers}
    assert by_id.keys() == {0, 1, 2}
    failed = by_id[1].get("error")
    assert failed is None or failed["data"]["kind"] in ("EngineUnavailable", "InsufficientMemory")


class Daemon(Sidecar):
    """A client of the limited daemon, with a running job."""

    def __init__(self, folder, log, few):
        super().__init__(limited(10**6, few), stderr=log)
        grants = {"user-folder": str(folder)}
        self.initialize(manifest=manifest(), grants=grants)

    def begin(self, prompt, **options):
        return self.start("image.generate", {"prompt": prompt, "options": options}, stream=True)


@pytest.fixture
def daemon(tmp_path, request):
    folder = tmp_path / "pictures"
    folder.mkdir()
    with (tmp_path / "log").open("wb") as log:
        made = Daemon(folder, log, few=getattr(request, "param", 0))
        yield made
        made.close()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not made.violations


@pytest.mark.parametrize("way", ["eof", "sigterm", "exit", "shutdown"])
def test_a_daemon_that_can_start_no_thread_any_more_ends_in_order(way, daemon):
    call = daemon.begin("fake:slow=60000 a lake", steps=3)
    until(call, "denoising")
    waiting = daemon.begin("a lake")
    (engine,) = psutil.Process(daemon.process.pid).children()
    daemon.call("rpc.discover")
    began = time.monotonic()
    if way == "eof":
        daemon.process.stdin.close()
    elif way == "sigterm":
        daemon.process.send_signal(signal.SIGTERM)
    else:
        if way == "shutdown":
            daemon.call("shutdown", timeout=5)
        daemon.notify("exit")
    assert daemon.process.wait(5) == (1 if way == "exit" else 0)
    assert time.monotonic() - began < 2
    assert error_of(call, 1).kind == error_of(waiting, 1).kind == "RequestCancelled"
    psutil.wait_procs([engine], 5)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("daemon", range(4), indirect=True)  # an engine's process has four threads of the daemon's
def test_an_engine_that_cannot_be_started_is_told_and_the_next_one_works(daemon, tmp_path):
    assert daemon.begin("a lake", steps=1).result(30)["images"]  # the threads that work for the loop are there now
    assert daemon.call("models.unload")["unloaded"]
    daemon.call("rpc.discover")
    before = psutil.Process(daemon.process.pid).num_fds()
    for _ in range(3):
        # the latter if the event loop's worker thread has been idle so long that it has ended
        assert error_of(daemon.begin("a lake", steps=1)).kind in ("EngineUnavailable", "InsufficientMemory")
    assert psutil.Process(daemon.process.pid).num_fds() <= before + 2
    assert not psutil.Process(daemon.process.pid).children()
    daemon.call("rpc.discover")
    assert daemon.begin("a lake", steps=1).result(30)["images"]


def test_a_models_worker_that_cannot_be_started_is_told_at_once_and_the_next_one_works(daemon):
    assert daemon.call("models.verify", {"model": "pocket"}, timeout=30)["ok"]
    daemon.call("rpc.discover")
    before = psutil.Process(daemon.process.pid).num_fds()
    began = time.monotonic()
    for _ in range(3):
        assert error_of(daemon.start("models.verify", {"model": "pocket"})).kind == "InsufficientMemory"
    assert time.monotonic() - began < 5
    assert psutil.Process(daemon.process.pid).num_fds() <= before
    assert not psutil.Process(daemon.process.pid).children()
    daemon.call("rpc.discover")
    assert daemon.call("models.verify", {"model": "pocket"}, timeout=30)["ok"]


def test_a_picture_that_was_saved_is_told_of_though_there_is_no_further_thread(daemon):
    assert daemon.begin("a lake", steps=1).result(30)["images"]  # the threads that work for the loop are there now
    call = daemon.begin("fake:slow=300 a lake", steps=3)
    until(call, "denoising")
    daemon.call("rpc.discover")
    assert call.result(30)["images"]


def preset(kind, value):
    """Return a function that sets a limit in a child process."""
    import resource

    return lambda: resource.setrlimit(getattr(resource, kind), (value, value))


@pytest.mark.parametrize(
    ("kind", "values", "switch"),
    [
        ("RLIMIT_AS", [size * MIB for size in (*range(16, 24), *range(24, 176, 8), 200, 300, 600, 1200)], "-v"),
        ("RLIMIT_DATA", [size * MIB for size in (20, 60, 100, 130, 145, 160, 200, 300)], "-d"),
        ("RLIMIT_NOFILE", [*range(3, 28), 32, 48, 64, 96, 99, 100, 128], "-n"),
    ],
)
def test_a_daemon_short_of_memory_or_descriptors_says_so_or_serves_and_ends(kind, values, switch, tmp_path):
    if sys.platform != "linux":
        pytest.skip("such limits are not kept here")
    seen = set()
    for value in values:
        told, status, errors = _exchange(tmp_path, ["-m", "locara_sidecar"], preset(kind, value))
        if not told and _interpreter_fails(kind, value):
            continue
        failed = [answer["error"] for answer in told if "error" in answer]
        seen.add(bool(told))
        if told:
            assert (status, "Traceback" in errors) == (0, False), (value, errors)
            assert sorted(answer["id"] for answer in told) == [0, 1, 2], value
            # the engine is a process of its own, under the same limit
            assert {error["data"]["kind"] for error in failed} <= {"EngineUnavailable", "EngineCrashed"}, (value, told)
        else:
            assert status == 1, (value, errors)
            assert errors.startswith("locara-sidecar: cannot start: it needs "), (value, errors)
            assert f"`ulimit {switch}`" in errors, value
            assert errors.count("\n") == 1, (value, errors)
    assert (seen, failed) == ({True, False}, [])  # the highest limit allows everything


def _exchange(folder, start, limit=None):
    """Run a session whose host waits for the three answers; return them, the status and stderr."""
    argv = [sys.executable, *start, "serve", "--engine", "fake", "--log-level", "error"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, preexec_fn=limit) as daemon:
        overdue = threading.Timer(20, daemon.kill)
        overdue.start()
        with contextlib.suppress(BrokenPipeError):
            daemon.stdin.write(session(folder))
            daemon.stdin.flush()
        answers = [json.loads(line) for _, line in zip(range(3), daemon.stdout, strict=False)]
        with contextlib.suppress(BrokenPipeError):
            daemon.stdin.close()
        status = daemon.wait()
        overdue.cancel()
        return answers, status, daemon.stderr.read().decode()


def _interpreter_fails(kind, value):
    """Return whether Python itself, up to our first look at the limits, cannot run under this limit.

    It gets 2 MiB less than the daemon had, because the memory layout differs from run to run.
    """
    code = "import threading, resource, mmap, ctypes; from locara_sidecar.daemon.process import ending, limits"
    limit = preset(kind, value if kind == "RLIMIT_NOFILE" else value - 2 * MIB)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, preexec_fn=limit, timeout=10)
    except subprocess.TimeoutExpired:  # CPython 3.11 under 12 MiB: it repeats forever that there is no memory
        return True
    return done.returncode != 0


LAST_RESORT = """
import anyio
from locara_sidecar.daemon import serve
from locara_sidecar.daemon.process import ending
from locara_sidecar.daemon.wire.calls import Call

def fail(*_, **__):
    raise MemoryError

def once(self, error, fail_call=Call.fail):
    Call.fail = fail_call
    raise MemoryError

anyio.run = fail
{change}
from locara_sidecar.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("change", "answered"),
    [
        ("pass", {0, 1, 2}),
        ("serve._tell = fail", {0, 1, 2}),
        ("serve.Daemon.stop = fail; ending.Ending.begin = fail", {0, 1, 2}),
        ("serve.LazyEngine.close_now = fail; serve.logs.flush = fail", {0, 1, 2}),
        ("Call.fail = once", {0, 2}),
    ],
)
def test_no_step_of_the_last_resort_is_left_out_because_another_one_has_no_memory(change, answered, tmp_path):
    told, status, errors = _exchange(tmp_path, ["-c", LAST_RESORT.format(change=change)])
    answers = {answer["id"]: answer for answer in told}
    assert answers.keys() == answered, errors
    kinds = {answer["error"]["data"]["kind"] for answer in answers.values() if "error" in answer}
    assert kinds <= {"InsufficientMemory"}
    assert "cannot start" not in errors
    assert status == (0 if "stop = fail" in change else 1)


NO_MEMORY_TO_SAVE = """
from locara_sidecar.daemon.images import saving

async def fail(self):
    raise {error}

saving.Saver.open = fail
from locara_sidecar.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("error", "kind"), [("MemoryError", "InsufficientMemory"), ("OSError(24, 'no more files')", "StorageError")]
)
def test_what_a_job_lacked_is_what_its_call_and_the_list_of_jobs_answer(error, kind):
    with Sidecar([sys.executable, "-c", NO_MEMORY_TO_SAVE.format(error=error), "serve", "--engine", "fake"]) as daemon:
        daemon.initialize(manifest=manifest(), grants={"user-folder": os.getcwd()})
        first = error_of(daemon.start("image.generate", {"prompt": "x"}))
        assert first.kind == kind
        with pytest.raises(RemoteError) as told:
            daemon.call("jobs.result", {"jobId": daemon.call("jobs.list")["jobs"][0]["jobId"]})
        assert (told.value.kind, told.value.data) == (first.kind, first.data)


def test_a_saver_whose_job_failed_before_it_began_does_nothing():
    async def body():
        saver = Saver(
            grant=SimpleNamespace(folder=None),
            output=None,
            count=1,
            on_saving=lambda _: None,
            cancelled=lambda: False,
            files=UserFiles(),
        )
        await saver.open()
        await saver.aclose()
        await saver.run()
        assert saver.failure is None

    anyio.run(body)


def test_a_machine_without_devices_is_not_told_to_raise_a_limit(monkeypatch):
    monkeypatch.setattr(os, "devnull", "/nowhere/null")
    limits.check()
