"""Watching the host's process, even where the system offers no descriptor for it."""

import errno
import os
import select
import subprocess
import sys
import threading

import anyio
import psutil
import pytest

from locara_sidecar.daemon.process import hostwatch
from support.host import command


@pytest.fixture(params=["descriptor", "asking"])
def way(request, monkeypatch):
    if request.param == "asking":
        monkeypatch.setattr(hostwatch, "_wait_for_end", lambda pid, alive: False)
        monkeypatch.setattr(hostwatch, "_POLL_SECONDS", 0.01)


def no_task(*_):
    pytest.fail("there are threads enough")


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_the_end_of_a_process_is_told_once_and_not_before(way):
    gone = threading.Semaphore(0)
    with sleeper() as process:
        hostwatch.watch_process(process.pid, gone.release, no_task)
        assert not gone.acquire(timeout=0.1)
        process.kill()
        process.wait()
        assert gone.acquire(timeout=10)
    assert not gone.acquire(timeout=0.05)


def test_a_process_that_is_gone_already_is_told_at_once(way):
    with sleeper() as process:
        process.kill()
    gone = threading.Event()
    hostwatch.watch_process(process.pid, gone.set, no_task)
    assert gone.wait(10)


def test_a_parent_that_died_before_the_watch_began_is_told():
    """The process that adopted us is alive, but is not our host."""
    with sleeper() as process:
        gone = threading.Event()
        hostwatch.watch_parent(process.pid, gone.set)  # alive, but not the parent of this process
        assert gone.wait(10)
        process.kill()


def test_a_daemon_that_the_first_process_spawned_watches_none(monkeypatch):
    monkeypatch.setattr(os, "getsid", lambda pid: 1)  # in a container the host itself may be the first process
    before = threading.active_count()
    hostwatch.watch_parent(1, lambda: pytest.fail("nobody has gone"))
    assert threading.active_count() == before


@pytest.mark.parametrize("adopter", [1, 77])
def test_a_parent_of_another_session_is_none_that_spawned_us(adopter, monkeypatch):
    monkeypatch.setattr(os, "getsid", {0: 5, adopter: adopter}.get)
    gone = []
    hostwatch.watch_parent(adopter, lambda: gone.append(True))
    assert gone == [True]


def test_where_there_is_no_further_thread_the_process_is_asked_for(monkeypatch):
    def no_thread(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(hostwatch, "_start", no_thread)
    monkeypatch.setattr(hostwatch, "_POLL_SECONDS", 0.01)
    tasks, gone = [], []
    with sleeper() as process:
        hostwatch.watch_process(process.pid, lambda: gone.append(True), lambda *task: tasks.append(task))
        process.kill()
    ((function, *arguments),) = tasks
    anyio.run(function, *arguments)
    assert gone == [True]


ORPHAN = """
import os, signal, subprocess, sys
command = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", "fake"]
daemon = subprocess.Popen(command, stdin=0, stderr=subprocess.DEVNULL)
os.write(2, b"%d\\n" % daemon.pid)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getsid"), reason="sessions of POSIX")
def test_a_host_that_is_killed_as_soon_as_it_has_spawned_the_daemon_takes_it_along():
    """The host dies before the daemon's first line runs. The pipes stay open: another process holds their ends."""
    (stdin, into), (out, stdout) = os.pipe(), os.pipe()
    host = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        start_new_session=True,  # an app's session; the process that adopts the daemon is not in it
    )
    daemon = psutil.Process(int(host.stderr.readline()))
    host.wait()
    host.stderr.close()
    os.close(stdout)
    try:
        assert select.select([out], [], [], 10)[0], "the daemon lives on"
        assert os.read(out, 1) == b""
    finally:
        for fd in (stdin, into, out):
            os.close(fd)
        if daemon.is_running():
            daemon.wait(5)


def test_a_daemon_in_a_session_of_its_own_knows_its_host():
    """A host may detach what it spawns; that does not make it an orphan."""
    with subprocess.Popen(
        command("--engine", "fake"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as daemon:
        daemon.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        daemon.stdin.flush()
        assert b'"id":1' in daemon.stdout.readline()
        daemon.stdin.close()
        assert daemon.wait(5) == 0


class Queue:
    """A kqueue, as macOS makes it: a process that is there is watched, and its end is an event."""

    def __init__(self, refusal=None):
        self.calls, self.closed, self._refusal = [], False, refusal

    def control(self, changes, number):
        self.calls.append((changes, number))
        if changes and self._refusal is not None:
            raise OSError(self._refusal, os.strerror(self._refusal))
        return []

    def close(self):
        self.closed = True


@pytest.fixture
def kqueue(monkeypatch):
    def play(refusal=None):
        queue = Queue(refusal)
        filter_proc, ev_add, note_exit = -5, 1, 1 << 31  # <sys/event.h>
        for name, value in (
            *(("kqueue", lambda: queue), ("kevent", lambda *words: words)),
            *(("KQ_FILTER_PROC", filter_proc), ("KQ_EV_ADD", ev_add), ("KQ_NOTE_EXIT", note_exit)),
        ):
            monkeypatch.setattr(select, name, value, raising=False)
        monkeypatch.setattr(sys, "platform", "darwin")
        return queue, [(4711, filter_proc, ev_add, note_exit)]

    return play


@pytest.mark.parametrize("alive", [True, False])
def test_macos_is_told_to_watch_before_it_is_looked_whether_the_process_is_still_that_one(kqueue, alive):
    queue, event = kqueue()
    looked = []
    assert hostwatch._wait_for_end(4711, lambda: looked.append(list(queue.calls)) or alive)
    assert looked == [[(event, 0)]]
    assert queue.calls[1:] == ([(None, 1)] if alive else []), "nothing waits for a process that is another one"
    assert queue.closed


@pytest.mark.parametrize(("refusal", "ended"), [(errno.ESRCH, True), (errno.EPERM, False), (errno.ENOMEM, False)])
def test_what_macos_does_not_watch_is_polled_unless_it_has_ended(kqueue, refusal, ended):
    queue, _ = kqueue(refusal)
    assert hostwatch._wait_for_end(4711, lambda: pytest.fail("it is not watched")) is ended
    assert queue.closed
