"""What may wait for a disk is done in a thread, also where the system allows no more of them."""

import subprocess
import sys
import threading

import anyio
import pytest

from locara_sidecar.daemon.wire import off_loop


class Refused(Exception):
    """Raised by what must not be called."""


@pytest.fixture
def no_more(monkeypatch):
    """Return a function after which the system allows no further thread."""

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(off_loop, "WAIT_SECONDS", 5.0)
    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_thread_that_gets_free_is_waited_for(no_more):
    found, let = [], threading.Event()

    async def busy():
        await off_loop.off_loop(let.wait, 20)

    async def asks():
        found.append(await off_loop.off_loop(threading.get_ident))

    async def main():
        async with anyio.create_task_group() as tasks:
            await off_loop.keep_a_thread()
            no_more()
            tasks.start_soon(busy)
            await anyio.sleep(0.05)
            tasks.start_soon(asks)
            await anyio.sleep(0.2)
            assert found == []
            let.set()

    anyio.run(main)
    assert found
    assert found != [threading.get_ident()]


@pytest.fixture
def none(monkeypatch):
    """A system that allows no thread at all."""

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
    monkeypatch.setattr(off_loop, "WAIT_SECONDS", 0.05)


@pytest.mark.usefixtures("none")
def test_without_a_thread_it_is_refused_and_not_done_on_the_loop():
    def read():
        raise Refused

    with pytest.raises(RuntimeError, match=off_loop.NO_THREAD):
        anyio.run(off_loop.off_loop, read)


@pytest.mark.usefixtures("none")
def test_what_has_to_be_done_is_done_without_a_thread():
    async def main():
        return await off_loop.off_loop(lambda: 1, refused=lambda: 2)

    assert anyio.run(main) == 2


WATCHED = """
import os, sys, threading, time
def look():
    until = time.monotonic() + 5
    while not any("AnyIO" in thread.name for thread in threading.enumerate()):
        if time.monotonic() > until:
            os.write(2, b"there is none\\n")
            return
        time.sleep(0.01)
    os.write(2, b"there is one\\n")
threading.Thread(target=look, daemon=True).start()
from locara_sidecar.__main__ import main
sys.exit(main())
"""
"""The daemon, which says on stderr whether it has a thread for its event loop."""


def test_the_daemon_has_such_a_thread_before_it_needs_one():
    argv = [sys.executable, "-c", WATCHED, "serve", "--engine", "fake", "--log-level", "error"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe) as daemon:
        assert daemon.stderr.readline() == b"there is one\n"
        daemon.communicate(timeout=20)
