"""Watching the host's process, also where the system offers no descriptor for it."""

import os
import subprocess
import sys
import threading

import pytest

from locara_sidecar.daemon import hostwatch


@pytest.fixture(params=["descriptor", "asking"])
def way(request, monkeypatch):
    if request.param == "asking":
        monkeypatch.setattr(hostwatch, "_wait_for_end", lambda pid: False)
        monkeypatch.setattr(hostwatch, "_POLL_SECONDS", 0.01)


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_the_end_of_a_process_is_told_once_and_not_before(way):
    gone = threading.Semaphore(0)
    with sleeper() as process:
        hostwatch.watch_process(process.pid, gone.release)
        assert not gone.acquire(timeout=0.1)
        process.kill()
        process.wait()
        assert gone.acquire(timeout=10)
    assert not gone.acquire(timeout=0.05)


def test_a_process_that_is_gone_already_is_told_at_once(way):
    with sleeper() as process:
        process.kill()
    gone = threading.Event()
    hostwatch.watch_process(process.pid, gone.set)
    assert gone.wait(10)


def test_a_parent_that_died_before_the_watch_began_is_told():
    """Whoever adopted us is alive, and is not our host."""
    with sleeper() as process:
        gone = threading.Event()
        hostwatch.watch_parent(process.pid, gone.set)  # alive, but not the parent of this process
        assert gone.wait(10)
        process.kill()


def test_a_daemon_that_had_no_parent_from_the_start_watches_none():
    before = threading.active_count()
    hostwatch.watch_parent(1, lambda: pytest.fail("nobody has gone"))
    assert threading.active_count() == before
    assert os.getppid() > 0
