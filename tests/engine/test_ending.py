"""Nothing of an engine outlives it, however its real processes end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what is tested is Linux's"),
    pytest.mark.timeout(240),
]

_SECONDS = 60  # the limit for something that takes milliseconds


def lives(pid):
    """Return whether ``pid`` runs; a zombie does not."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid):
    until = time.monotonic() + _SECONDS
    while lives(pid):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


ENGINE = """
import os, sys, time
from locara_sidecar.engine import ending, sandbox
ending.die_with_parent()
processes = sys.argv[2] == "compiling"
if processes:
    ending.guard_group()
held = sandbox.confine(sys.argv[1], [], processes=processes)
print(held.enforced, flush=True)
try:
    for _ in range(2):  # away from its parent, and without a descriptor
        if os.fork():
            break
    else:
        for leave in (os.setsid, lambda: os.setpgid(0, 0)):
            try:
                leave()
            except OSError:
                pass
        open(sys.argv[1] + "/survivor.new", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + "/survivor.new", sys.argv[1] + "/survivor")
        os.closerange(0, 100)
        time.sleep(3600)
except PermissionError:
    print("refused", flush=True)
time.sleep(3600)
"""
DAEMON = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:], process_group=0); time.sleep(3600)"


@pytest.fixture
def engine(tmp_path):
    """Start a process that starts an engine that leaves something behind; return the pids of all three."""
    started = []

    def start(mode):
        words = [sys.executable, "-c", DAEMON, sys.executable, "-c", ENGINE, str(tmp_path), mode]
        daemon = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(daemon)
        if daemon.stdout.readline() != "True\n":
            pytest.skip("this system offers no whole confinement")
        (child,) = children(daemon.pid)
        if mode == "alone":
            return daemon, child, daemon.stdout.readline()
        survivor = tmp_path / "survivor"
        until = time.monotonic() + _SECONDS
        while not survivor.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        return daemon, child, int(survivor.read_text())

    yield start
    for daemon in started:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()


def test_an_engine_starts_nothing_that_could_outlive_it(engine):
    daemon, child, told = engine("alone")
    assert told == "refused\n"
    os.kill(daemon.pid, signal.SIGKILL)
    assert gone(child)


@pytest.mark.parametrize("ended", ["the engine's group", "the engine", "the daemon"])
def test_what_one_that_compiles_started_ends_with_it_however_it_ends(engine, ended):
    daemon, child, survivor = engine("compiling")
    assert lives(survivor)
    if ended == "the engine's group":  # as the daemon does whenever an engine has ended or must end
        os.killpg(child, signal.SIGKILL)
    else:
        os.kill(child if ended == "the engine" else daemon.pid, signal.SIGKILL)
    assert gone(child)
    assert gone(survivor)


BECOMING = """
import os, sys, threading, time
from locara_sidecar.engine import ending, sandbox
ending.die_with_parent()
ending.guard_group()
held = sandbox.confine(sys.argv[1], [], processes=True)
print(held.enforced, flush=True)
program = "import time; print('became', flush=True); time.sleep(3600)"
threading.Thread(target=os.execv, args=(sys.executable, [sys.executable, "-c", program])).start()
time.sleep(3600)
"""


def test_a_program_that_one_that_compiles_becomes_ends_with_the_daemon(tmp_path):
    """A program that a thread executes gets the process id, but not the death signal."""
    words = [sys.executable, "-c", DAEMON, sys.executable, "-c", BECOMING, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as daemon:
        if daemon.stdout.readline() != "True\n":
            daemon.kill()
            pytest.skip("this system offers no whole confinement")
        (child,) = children(daemon.pid)
        assert daemon.stdout.readline() == "became\n"
        daemon.kill()
        try:
            assert gone(child)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)


def test_the_guard_ends_with_what_it_guards(engine):
    _, child, _ = engine("compiling")
    (guard,) = (pid for pid in children(child) if os.getpgid(pid) == pid)
    held = {os.readlink(f"/proc/{guard}/fd/{fd}") for fd in os.listdir(f"/proc/{guard}/fd")}
    assert not any(link.startswith("pipe:") for link in held), "it holds no pipe open"
    assert len(os.listdir(f"/proc/{guard}/fd")) == 2
    os.kill(child, signal.SIGKILL)
    assert gone(guard)


def test_a_process_that_looks_at_a_folder_ends_with_the_one_that_asked():
    """Its stdin, whose end would otherwise end it, stays open."""
    words = [sys.executable, "-c", DAEMON, sys.executable, "-m", "locara_sidecar.engine.checking"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        until = time.monotonic() + _SECONDS

        def ready():
            links = [os.readlink(f"/proc/{child}/fd/{fd}") for child in children(daemon.pid) for fd in (1, 2)]
            return len(links) == 2 and links[0] == links[1]  # it has redirected stdout away from libraries

        while not ready():
            assert time.monotonic() < until
            time.sleep(0.02)
        (child,) = children(daemon.pid)
        daemon.kill()
        assert gone(child)
