"""Signals work from the first answer on, however the host had set them, and never cost an answer."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from support.host import error_of, manifest, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _a_host_that_leaves_signals_alone():
    """If the tests run with SIGHUP ignored (under nohup, say), what they start would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def ignored(number):
    """Ignore a signal in this process and in what it starts."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def blocked(*numbers):
    """Block signals in this thread and in what it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def busy(hosts):
    """Yield a host whose daemon has just given its first answer, and the call that it accepted before that."""
    host = hosts.spawn()
    params = {"prompt": "fake:slow=60000 a lake", "options": {"steps": 3}}
    opening = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(),
        "grants": {"user-folder": str(host.folder)},
    }
    opened = host.start("initialize", opening)
    call, ping = host.start("image.generate", params, stream=True), host.start("ping")
    opened.result(20)
    ping.result(20)
    return host, call


def ends_in_order(host, call):
    assert host.process.wait(5) == 0
    assert error_of(call, 1).kind == "RequestCancelled"
    assert "Traceback" not in host.log()


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_right_after_the_first_answer_ends_the_daemon_in_order(number, hosts):
    host, call = busy(hosts)
    host.process.send_signal(number)
    ends_in_order(host, call)


@pytest.mark.parametrize("early", [True, False])
def test_signals_that_follow_each_other_are_one_end(early, hosts):
    host, call = busy(hosts)
    if not early:
        until(call, "denoising")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        host.process.send_signal(number)
        time.sleep(0.005)  # first a terminal's, then a supervisor's
    ends_in_order(host, call)


@pytest.mark.slow
def test_a_signal_mask_of_the_hosts_is_not_the_daemons(hosts):
    for number in ENDING:
        with blocked(*ENDING):
            host, call = busy(hosts)
        host.process.send_signal(number)
        ends_in_order(host, call)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_host_ignores_still_ends_the_daemon(number, hosts):
    with ignored(number):
        host, call = busy(hosts)
    host.process.send_signal(number)
    ends_in_order(host, call)


def test_a_hangup_that_the_host_was_told_to_ignore_is_ignored(hosts):
    with ignored(signal.SIGHUP):
        host, call = busy(hosts)
    host.process.send_signal(signal.SIGHUP)
    assert host.call("ping", timeout=10)["jobs"]["running"] == 1
    host.process.send_signal(signal.SIGTERM)
    ends_in_order(host, call)


@pytest.mark.slow
def test_how_an_engine_ended_is_told_though_the_host_ignores_the_ends_of_its_children(hosts):
    with ignored(signal.SIGCHLD):
        host = hosts.session()
    error = error_of(host.begin("fake:kill=denoising a lake", steps=2))
    assert (error.kind, error.data["signal"]) == ("EngineCrashed", "SIGKILL")


WHILE_STARTING = """
import os, signal, sys, threading

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Finder())
sys.argv[0] = "locara-sidecar"
from locara_sidecar.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("module", ["argparse", "locara_sidecar.daemon.wire.server"])
def test_a_signal_before_anything_is_read_ends_the_daemon_without_a_word(module, name):
    code = WHILE_STARTING.format(module=module, name=name)
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--engine", "fake"], input=b"", capture_output=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_daemon_whose_event_loop_is_stuck_hears_a_signal():
    planted = "from locara_sidecar.daemon.methods import Methods; import ctypes; "
    planted += "Methods._discover = lambda *_: [ctypes.CDLL(None).sleep(60) for _ in range(9)]"
    code = f"{planted}\nfrom locara_sidecar.__main__ import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--engine", "fake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        daemon.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        daemon.stdin.flush()
        assert json.loads(daemon.stdout.readline())["id"] == 1
        daemon.stdin.write(b'{"jsonrpc":"2.0","id":2,"method":"rpc.discover"}\n{"jsonrpc":"2.0","id":3,"method":"x"}\n')
        daemon.stdin.flush()
        began = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(5) == 0
    assert time.monotonic() - began < 2.5


def test_other_commands_keep_the_signals_of_a_terminal():
    code = WHILE_STARTING.format(module="argparse", name="SIGINT")
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, timeout=20)
    assert done.returncode == 130
