"""Spawning, opening, closing and dying: a daemon that never hangs and goes with its host."""

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


def test_ping_is_answered_before_initialize_and_tells_of_a_stopped_engine(hosts):
    host = hosts.spawn()
    answer = host.call("ping", timeout=10)
    assert answer["engine"] == {"state": "stopped", "pid": None, "model": None, "lastProgressMs": None}
    assert answer["jobs"] == {"running": 0, "queued": 0}


def test_ping_tells_the_uptime_in_milliseconds(hosts):
    host = hosts.spawn()
    first, began = host.call("ping", timeout=10)["uptimeMs"], time.monotonic()
    while (passed := (time.monotonic() - began) * 1000) < 60:
        later = host.call("ping", timeout=10)["uptimeMs"]
    assert 20 < later - first < passed + 60


def test_initialize_tells_what_the_app_was_granted(hosts):
    host = hosts.spawn()
    result = host.open("pocket")
    assert result["protocolVersion"] == 1
    assert result["app"]["id"] == "example/studio@1.2.3"
    assert "model:pocket" in result["app"]["granted"]
    assert "image.generate" in result["capabilities"]["methods"]
    assert result["capabilities"]["limits"]["maxPromptBytes"] == 16384


def test_a_second_initialize_is_refused_and_a_failed_one_leaves_the_session_closed(hosts):
    host = hosts.spawn()
    with pytest.raises(RemoteError) as caught:
        host.initialize(protocolVersion=0)
    assert (caught.value.kind, caught.value.data["supported"]) == ("UnsupportedProtocolVersion", [1])
    with pytest.raises(RemoteError) as caught:
        host.call("jobs.list")
    assert caught.value.kind == "NotInitialized"
    with pytest.raises(RemoteError) as caught:
        host.initialize(manifest={"schema": "locara/v2"})
    assert caught.value.data["path"].startswith("$.manifest")
    host.open()
    with pytest.raises(RemoteError) as caught:
        host.open()
    assert caught.value.kind == "InvalidRequest"


def test_what_was_fixed_at_spawn_may_be_repeated_but_never_widened(hosts, tmp_path):
    file = tmp_path / "locara.json"
    file.write_text(json.dumps(manifest("pocket")))
    pictures = tmp_path / "granted"
    pictures.mkdir()
    flags = ("--manifest", str(file), "--grant", f"user-folder={pictures}")
    for widened in ({"manifest": manifest("pocket", "sd3.5-large")}, {"grants": {"user-folder": str(tmp_path)}}):
        with pytest.raises(RemoteError) as caught:
            hosts.spawn(*flags).initialize(**widened)
        assert caught.value.kind == "InvalidParams"
    for repeated in ({"manifest": manifest("pocket"), "grants": {"user-folder": str(pictures)}}, {}):
        host = hosts.spawn(*flags)
        host.initialize(**repeated)
        assert host.generate(steps=1)["images"][0]["path"].startswith(str(pictures))


def test_what_was_not_given_at_spawn_beside_the_other_is_not_given_later(hosts, tmp_path):
    """A host that fixes one of the two fixes both: the app that then speaks cannot give itself the other."""
    file = tmp_path / "locara.json"
    file.write_text(json.dumps(manifest("pocket")))
    later = {
        ("--manifest", str(file)): {"grants": {"user-folder": str(tmp_path)}},
        ("--grant", f"user-folder={tmp_path}"): {"manifest": manifest("pocket")},
    }
    for flags, params in later.items():
        with pytest.raises(RemoteError) as caught:
            hosts.spawn(*flags).initialize(**params)
        assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", f"$.{next(iter(params))}")
        host = hosts.spawn(*flags)
        host.initialize()
        with pytest.raises(RemoteError) as caught:
            host.generate(steps=1)
        assert caught.value.kind == "CapabilityDenied"


def test_system_info_tells_the_truth_about_this_machine(hosts):
    host = hosts.session("--cache-dir", "/somewhere/else")
    info = host.call("system.info")
    assert info["cacheRoot"] == "/somewhere/else"
    assert info["memory"]["total"] >= info["memory"]["available"] > 0
    assert 5e6 < info["memory"]["daemon"] < 100e6
    assert {engine["name"] for engine in info["engines"]} == {"mlx", "torch", "fake"}
    assert not info["sandbox"]["enforced"]
    assert info["sandbox"]["reason"]


@pytest.mark.parametrize("flag", [["--quality"], ["--queue", "-1"], ["--grant", "x"], ["--engine", "paint"], ["paint"]])
def test_a_usage_error_ends_with_status_2_and_an_empty_stdout(flag):
    done = subprocess.run(
        [*command(), *flag] if flag[0] != "paint" else [*command()[:-1], *flag],
        input=b"",
        capture_output=True,
        timeout=20,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


def test_a_manifest_that_is_wrong_at_spawn_is_a_usage_error_that_names_the_member(tmp_path):
    file = tmp_path / "locara.json"
    file.write_text(json.dumps({**manifest(), "modalitys": []}))
    done = subprocess.run([*command(), "--manifest", str(file)], input=b"", capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"modalitys" in done.stderr


def test_the_end_of_stdin_ends_the_daemon_with_status_0():
    done = subprocess.run(command(), input=PING, capture_output=True, timeout=10)
    assert done.returncode == 0
    assert json.loads(done.stdout)["id"] == 1


def test_a_last_line_without_its_ending_is_still_answered():
    done = subprocess.run(command(), input=PING.rstrip(b"\n"), capture_output=True, timeout=10)
    assert (done.returncode, json.loads(done.stdout)["id"]) == (0, 1)


def test_a_whole_session_written_before_the_daemon_has_started_is_served(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    requests = [
        ("initialize", {**OPENING, "manifest": manifest(), "grants": {"user-folder": str(pictures)}}),
        ("image.generate", {"prompt": "x", "options": {"steps": 1}}),
    ]
    with subprocess.Popen(command("--engine", "fake"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        for number, (method, params) in enumerate(requests):
            daemon.stdin.write(request(number, method, params))
        daemon.stdin.flush()
        answers = [json.loads(daemon.stdout.readline()) for _ in range(2)]
        daemon.stdin.close()
        assert daemon.wait(5) == 0
    assert [answer["id"] for answer in answers] == [0, 1]
    assert len(answers[1]["result"]["images"]) == 1


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


def test_a_daemon_whose_event_loop_is_stuck_still_ends_within_two_seconds():
    planted = (
        "from locara_sidecar.daemon.server import Server; import time; Server.cancel_all = lambda _: time.sleep(60)"
    )
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
    # no waiting: both answers came before that of shutdown
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
    """Wait until they have ended; False if one lives on.

    One that has ended after its parent is listed until the system's first process collects it, which on some
    machines takes that two seconds: psutil's own wait would measure that.
    """
    deadline = time.monotonic() + patience
    while any(_lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)  # nothing tells of another's child's end on every system; the bounds are seconds
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


def test_almost_no_environment_is_enough(hosts):
    host = hosts.session(env={"HOME": os.environ.get("HOME", "/"), "PATH": "/usr/bin:/bin"})
    assert host.generate(steps=1)["images"]


def test_stdin_may_be_a_file_a_socket_or_the_null_device(tmp_path):
    import socket

    file = tmp_path / "requests"
    file.write_bytes(PING)
    with file.open("rb") as stdin:
        assert json.loads(subprocess.run(command(), stdin=stdin, capture_output=True, timeout=10).stdout)["id"] == 1
    assert subprocess.run(command(), stdin=subprocess.DEVNULL, capture_output=True, timeout=10).returncode == 0
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(command(), stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL) as daemon:
        theirs.close()
        ours.sendall(PING)
        assert json.loads(ours.recv(65536))["id"] == 1
        ours.shutdown(socket.SHUT_WR)
        assert daemon.wait(5) == 0
