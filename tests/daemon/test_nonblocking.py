"""Descriptors shared with the host that are non-blocking, from the start or at any later time."""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time

import psutil
import pytest

from locara_sidecar.daemon.wire import stdio
from support.host import command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")

COUNT = 1200


def waiting(fd):
    """Return how many bytes can be read from a pipe."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"    "))[0]


def until_full(fd, patience=20):
    """Return when a pipe is full and nothing more is written to it."""
    deadline, before = time.monotonic() + patience, -1
    while (now := waiting(fd)) < 40_000 or now != before:
        assert time.monotonic() < deadline, now
        before = now
        time.sleep(0.02)


def requests():
    """Return requests whose answers are many times what a pipe holds, with a large one now and then."""
    methods = ["rpc.discover" if number % 40 == 0 else "nope" for number in range(COUNT)]
    return b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"%s"}\n' % (i, m.encode()) for i, m in enumerate(methods))


def exchange(process, into, out):
    """Send requests, reading only when nothing more can be written; return the answers' ids in order."""
    writer = threading.Thread(target=lambda: stdio.write_all(into, requests()))
    writer.start()
    until_full(out)
    answers = b""
    while answers.count(b"\n") < COUNT and (data := os.read(out, 1 << 16)):
        answers += data
    writer.join(10)
    os.close(into)
    assert process.wait(10) == 0
    os.close(out)
    return [json.loads(line)["id"] for line in answers.splitlines()]


@pytest.mark.parametrize("shared", [(0,), (1,), (0, 1, 2)], ids=str)
def test_every_request_is_answered_over_non_blocking_pipes(shared):
    (stdin, into), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
    for number, fd in enumerate((stdin, stdout, stderr)):
        os.set_blocking(fd, number not in shared)
    process = subprocess.Popen(command("--engine", "fake"), stdin=stdin, stdout=stdout, stderr=stderr)
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    assert exchange(process, into, out) == list(range(COUNT))
    os.close(err)


def test_a_non_blocking_stdin_with_nothing_in_it_is_not_at_its_end():
    stdin, into = os.pipe()
    os.set_blocking(stdin, False)
    with subprocess.Popen(command("--engine", "fake"), stdin=stdin, stdout=subprocess.PIPE) as process:
        os.close(stdin)
        for number in range(5):
            os.write(into, b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n' % number)
            assert json.loads(process.stdout.readline())["id"] == number
        os.close(into)
        assert process.wait(5) == 0


NODE = """
const { spawn } = require('child_process');
const [program, ...args] = process.argv.slice(1);
const daemon = spawn(program, args, { stdio: 'inherit' });
process.stdin.pause(); process.stdout.on('error', () => {}); process.stderr.write('');   // made non-blocking by now
daemon.on('exit', (code) => process.exit(code));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_every_request_is_answered_under_a_node_host_that_shares_its_own_pipes():
    process = subprocess.Popen(
        ["node", "-e", NODE, *command("--engine", "fake", "--log-level", "error")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    into, out = os.dup(process.stdin.fileno()), os.dup(process.stdout.fileno())
    process.stdin.close()
    process.stdout.close()
    assert exchange(process, into, out) == list(range(COUNT))


def test_a_daemon_that_waits_for_a_non_blocking_pipe_does_not_spin():
    (stdin, into), (out, stdout) = os.pipe(), os.pipe()
    os.set_blocking(stdin, False)
    os.set_blocking(stdout, False)
    process = subprocess.Popen(command("--engine", "fake"), stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL)
    os.close(stdin)
    os.close(stdout)
    os.write(into, requests()[:30_000])
    until_full(out)
    daemon = psutil.Process(process.pid)
    before, began = sum(daemon.cpu_times()[:2]), time.monotonic()
    while time.monotonic() - began < 0.5:
        time.sleep(0.05)
    assert sum(daemon.cpu_times()[:2]) - before < 0.15
    os.close(out)
    assert process.wait(5) == 0
    os.close(into)


def test_the_log_is_written_in_whole_lines_to_a_non_blocking_stderr():
    """The lines are longer than a pipe takes at once, so each is written in parts."""
    code = """
import logging
from locara_sidecar.daemon.process import logs
logs.start("info")
for number in range(300):
    logging.getLogger("x").info("%s", "m" * 7000, extra={"fields": {"number": number}})
logs.flush(60)
"""
    err, stderr = os.pipe()
    os.set_blocking(stderr, False)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=stderr)
    os.close(stderr)
    until_full(err)
    data = b""
    while more := os.read(err, 1 << 16):
        data += more
    os.close(err)
    assert process.wait(10) == 0
    assert [json.loads(line)["number"] for line in data.splitlines()] == list(range(300))


def test_a_sentence_for_a_host_that_reads_nothing_is_given_up():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        stdio.write_all(writing, bytes(1 << 20), 0.1)
    assert time.monotonic() - began < 5
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        stdio.write_all(writing, b"x")
    os.close(writing)


def test_a_large_listing_is_printed_whole_into_a_non_blocking_pipe():
    code = """
from locara_sidecar.cli.output.console import Console
Console().line("ü" * 300_000)
Console().line("end")
"""
    out, stdout = os.pipe()
    os.set_blocking(stdout, False)
    environment = os.environ | {"PYTHONUTF8": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=stdout, env=environment)
    os.close(stdout)
    until_full(out)
    with os.fdopen(out, "rb") as stream:
        assert stream.read().decode() == "ü" * 300_000 + "\nend\n"
    assert process.wait(10) == 0
