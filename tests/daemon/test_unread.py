"""Hosts that send requests and do not read the answers take no memory, and their end is still noticed."""

import io
import json
import subprocess
import threading
import time

import psutil
import pytest

from support.host import command, manifest

MIB = 1 << 20


def discover(count):
    """Requests of 44 bytes with answers of 87 kB."""
    return b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"rpc.discover"}\n' % number for number in range(count))


@pytest.fixture
def daemon():
    process = subprocess.Popen(
        command("--engine", "fake", "--log-level", "error"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    process.stdin.write(b'{"jsonrpc":"2.0","id":"first","method":"ping"}\n')
    assert process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def until_still(pid, patience=30):
    """Return when a process has done nothing for a while, having written what it can."""
    process, deadline = psutil.Process(pid), time.monotonic() + patience
    before, since = None, time.monotonic()
    while time.monotonic() - since < 0.3:
        assert time.monotonic() < deadline
        if (now := sum(process.cpu_times()[:2])) != before:
            before, since = now, time.monotonic()
        time.sleep(0.02)


@pytest.mark.slow
def test_unread_requests_take_no_memory(daemon):
    until_still(daemon.pid)
    before = psutil.Process(daemon.pid).memory_info().rss
    daemon.stdin.write(discover(5500))  # 264 kB
    until_still(daemon.pid)
    assert psutil.Process(daemon.pid).memory_info().rss - before < 16 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("count", [150, 6000], ids=["all of it read", "more than is read ahead"])
def test_the_end_of_stdin_is_noticed_though_answers_wait(count, daemon):
    daemon.stdin.write(discover(count))
    until_still(daemon.pid)
    began = time.monotonic()
    daemon.stdin.close()
    assert daemon.wait(5) == 0
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_an_engine_goes_with_a_daemon_whose_answers_nobody_takes(daemon, tmp_path):
    opening = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(),
        "grants": {"user-folder": str(tmp_path)},
    }
    for number, method, params in (
        ("open", "initialize", opening),
        ("job", "image.generate", {"prompt": "fake:slow=60000 x", "channel": 1}),
    ):
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        daemon.stdin.write(json.dumps(message).encode() + b"\n")
    while b"denoising" not in daemon.stdout.readline():
        pass
    (engine,) = psutil.Process(daemon.pid).children()
    daemon.stdin.write(discover(6000))
    until_still(daemon.pid)
    began = time.monotonic()
    daemon.stdin.close()
    assert daemon.wait(5) == 0
    _, alive = psutil.wait_procs([engine], 5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert time.monotonic() - began < 2.5


@pytest.mark.slow
def test_a_host_that_closes_stdin_and_then_reads_gets_the_answer_to_all_that_it_asked(daemon):
    count = 400  # 35 MB
    daemon.stdin.write(discover(count))
    closing = threading.Thread(target=daemon.stdin.close)
    closing.start()
    with io.BufferedReader(daemon.stdout) as stdout:
        slowly = []  # for longer than a host may read nothing
        for _ in range(20):
            slowly.append(stdout.read(MIB))
            time.sleep(0.06)
        # looked at afterwards: a host that takes less than 4 MiB in half a second has left
        lines = (b"".join(slowly) + stdout.read()).splitlines()
    closing.join()
    assert [json.loads(line)["id"] for line in lines] == list(range(count))
    assert daemon.wait(5) == 0
