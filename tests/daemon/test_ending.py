"""Closing and dying: the daemon never hangs and ends with its host."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from locara_protocol.client import RemoteError
from support.host import command, error_of, manifest, until

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
OPENING = {"protocolVersion": 1, "clientInfo": {"name": "t", "version": "1"}}


def request(request_id, method, params):
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def test_nothing_is_looked_at_after_exit_and_the_end_of_stdin_does_not_change_the_status():
    lines = b'{"jsonrpc":"2.0","method":"exit"}\n' + PING
    done = subprocess.run(command(), input=lines, capture_output=True, timeout=10)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_host_that_closes_its_reading_end_ends_the_daemon_though_stdin_stays_open():
    with subprocess.Popen(command("--engine", "fake"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        daemon.stdin.write(PING)
        daemon.stdin.flush()
        assert daemon.stdout.readline()
        daemon.stdout.close()
        daemon.stdin.write(PING)
        daemon.stdin.flush()
        assert daemon.wait(5) == 0


@pytest.mark.slow
def test_a_daemon_whose_event_loop_is_stuck_still_ends_within_two_seconds():
    planted = "from locara_sidecar.daemon.methods import Methods; import time"
    planted += "; Methods.cancel_all = lambda _: time.sleep(60)"
    code = f"{planted}\nfrom locara_sidecar.__main__ import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--engine", "fake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        daemon.stdin.write(PING)
        daemon.stdin.flush()
        assert daemon.stdout.readline()
        began = time.monotonic()
        daemon.stdin.close()
        assert daemon.wait(5) == 0
    assert time.monotonic() - began < 2


def test_exit_is_0_after_shutdown_and_1_without(hosts):
    host = hosts.session()
    host.call("shutdown")
    with pytest.raises(RemoteError) as caught:
        host.call("ping")
    assert caught.value.kind == "InvalidRequest"
    host.notify("exit")
    assert host.process.wait(5) == 0
    other = hosts.session()
    other.notify("exit")
    assert other.process.wait(5) == 1


def test_shutdown_answers_running_and_waiting_calls_first(hosts):
    host = hosts.session()
    running = host.begin("fake:slow=100 a lake", steps=50)
    until(running, "denoising")
    waiting = host.begin(steps=1)
    host.call("shutdown", timeout=10)
    # no waiting: both answers came before the one to shutdown
    assert error_of(running, 0).kind == error_of(waiting, 0).kind == "RequestCancelled"


@pytest.mark.parametrize("way", ["eof", "sigterm", "sigint"])
def test_daemon_and_engine_are_gone_within_two_seconds_in_the_middle_of_a_step(way, hosts):
    host = hosts.session()
    call = host.begin("fake:slow=10000 a lake", steps=3)
    until(call, "denoising")
    waiting = host.begin(steps=1)
    engine = psutil.Process(host.call("ping")["engine"]["pid"])
    began = time.monotonic()
    if way == "eof":
        host.process.stdin.close()
    else:
        os.kill(host.process.pid, signal.SIGTERM if way == "sigterm" else signal.SIGINT)
    assert host.process.wait(5) == 0
    assert _end([engine])
    assert time.monotonic() - began < 2
    assert error_of(call, 1).kind == error_of(waiting, 1).kind == "RequestCancelled"


def test_a_stuck_engine_does_not_keep_the_daemon(hosts):
    host = hosts.session()
    call = host.begin("fake:hang=denoising a lake", steps=3)
    until(call, "denoising")
    engine = psutil.Process(host.call("ping")["engine"]["pid"])
    began = time.monotonic()
    host.process.stdin.close()
    host.process.wait(5)
    assert _end([engine])
    assert time.monotonic() - began < 2


HOST = """
import subprocess, sys, json, os
daemon = subprocess.Popen(json.loads(sys.argv[1]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for line in json.loads(sys.argv[2]):
    daemon.stdin.write(line.encode() + b"\\n")
daemon.stdin.flush()
for pipe in (daemon.stdin, daemon.stdout):
    os.set_inheritable(os.dup(pipe.fileno()), True)
holder = subprocess.Popen(["sleep", "60"], close_fds=False)   # something else holds the daemon's stdin and stdout open
print(daemon.pid, holder.pid, flush=True)
while daemon.stdout.readline():
    print("line", flush=True)
"""


def test_a_killed_host_takes_daemon_and_engine_with_it_even_if_its_pipes_stay_open(tmp_path):
    params = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(),
        "grants": {"user-folder": str(tmp_path)},
    }
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}),
        json.dumps(
            {
                "jsonrpc": "2.0",
                "id": 2,
                "method": "image.generate",
                "params": {"prompt": "fake:slow=60000 x", "channel": 1},
            }
        ),
    ]
    arguments = [
        sys.executable,
        "-c",
        HOST,
        json.dumps(command("--engine", "fake", "--log-level", "error")),
        json.dumps(lines),
    ]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as host:
        daemon_pid, holder_pid = map(int, host.stdout.readline().split())
        daemon = psutil.Process(daemon_pid)
        for _ in range(5):  # initialize's answer, queued, loading, encoding, denoising
            host.stdout.readline()
        children = daemon.children()
        assert len(children) == 1
        began = time.monotonic()
        host.kill()
        host.wait()
        try:
            ended = _end([daemon, *children])
            took = time.monotonic() - began
        finally:
            os.kill(holder_pid, signal.SIGKILL)
    assert ended
    assert took < 2


def _end(processes, patience=4):
    """Wait until all have ended; return False if one stays alive.

    A process that ends after its parent is listed until the system's first process reaps it, which takes that process
    two seconds on some machines: psutil's own wait would measure that.
    """
    deadline = time.monotonic() + patience
    while any(_lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)  # no system call reports the end of another's child everywhere; the bounds are seconds
    return True


def _lives(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_id_that_ends_ends_the_daemon(hosts):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        host = hosts.spawn()
        host.open(processId=other.pid)
        host.call("ping")
        other.kill()
        other.wait()
        assert host.process.wait(3) == 0


def test_shutdown_with_exit_right_behind_it_is_answered_as_shutdown(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    opening = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(),
        "grants": {"user-folder": str(folder)},
    }
    draw = {"prompt": "fake:slow=60000 a lake", "options": {"steps": 3}}
    requests = [("initialize", opening), ("image.generate", draw), ("shutdown", {})]
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        for number, (method, params) in enumerate(requests)
    ]
    lines.append(json.dumps({"jsonrpc": "2.0", "method": "exit"}))
    command = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", "fake", "--log-level", "error"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        daemon.stdin.write("".join(f"{line}\n" for line in lines).encode())
        daemon.stdin.flush()
        answers = {answer["id"]: answer for line in daemon.stdout if "id" in (answer := json.loads(line))}
        assert daemon.wait(5) == 0
    assert answers[1]["error"]["code"] == -32800
    assert answers[2]["result"] == {}


HELD_UP = """
import time
import anyio
anyio.run = lambda *_: time.sleep(600)   # as importing asyncio takes on a machine without bytecode and with other work
from locara_sidecar.__main__ import main
main()
"""


@pytest.mark.slow
def test_what_was_accepted_is_answered_although_the_main_thread_is_held_up(tmp_path):
    """Nothing waits for the main thread, and a batch gets its answers, too."""
    opening = {**OPENING, "manifest": manifest(), "grants": {"user-folder": str(tmp_path)}}
    draw = request(2, "image.generate", {"prompt": "x", "channel": 5})
    batch = b"[" + request(3, "image.generate", {"prompt": "y"}).strip() + b"," + PING.strip() + b"]\n"
    argv = [sys.executable, "-c", HELD_UP, "serve", "--engine", "fake"]
    done = subprocess.run(
        argv, input=request(0, "initialize", opening) + draw + batch, capture_output=True, timeout=50, check=False
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [entry["id"] for entry in told[-1]] == [1, 3]
    assert told[-1][1]["error"]["code"] == -32800
    assert told[-2]["id"] == 2
    assert told[-2]["error"]["code"] == -32800
    assert told[-3]["params"] == {"channel": 5, "index": len(told) - 4, "end": True}
