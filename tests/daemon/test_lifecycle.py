"""Spawning and opening: what a daemon says about itself, and how it starts."""

import json
import os
import subprocess
import sys
import time

import pytest

from locara_protocol.client import RemoteError
from support.host import command, manifest

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_was_not_given_at_spawn_beside_the_other_is_not_given_later(hosts, tmp_path):
    """A host that sets one of the two at spawn fixes both: the app cannot add the other one later."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_work_on_models_that_is_asked_for_together_with_initialize_is_done_and_can_be_cancelled(tmp_path):
    """These lines are read before there is an event loop."""
    opening = request(0, "initialize", {**OPENING, "manifest": manifest("pocket", "sdxl-lightning")})
    nothing = request(1, "models.import", {"model": "sdxl-lightning", "from": str(tmp_path / "nothing")})
    checked = request(2, "models.verify", {"model": "pocket"})
    cancelled = request(3, "models.verify", {"model": "pocket"})
    cancel = b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":3}}\n'
    flags = ("--engine", "fake", "--allow-model-management", "--cache-dir", str(tmp_path))
    with subprocess.Popen(command(*flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        daemon.stdin.write(opening + nothing + checked + cancelled + cancel)
        daemon.stdin.flush()
        answers = {answer["id"]: answer for answer in (json.loads(daemon.stdout.readline()) for _ in range(4))}
        daemon.stdin.close()
        assert daemon.wait(5) == 0
    assert answers[1]["error"]["data"]["path"] == "$.from"
    assert answers[2]["result"]["ok"]
    assert answers[3]["error"]["data"]["kind"] == "RequestCancelled"


@pytest.mark.slow
def test_almost_no_environment_is_enough(hosts):
    host = hosts.session(env={"HOME": os.environ.get("HOME", "/"), "PATH": "/usr/bin:/bin"})
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory."),
        ("folder", "cannot be read: Is a directory."),
        (b"\xff", "is not in UTF-8 (byte 0)."),
        (b'{"schema": ', "is not JSON (line 1, column 12: Expecting value)."),
        (b"[" * 100_000, "is nested too deeply."),
        (b"[]", "does not hold a JSON object."),
    ],
)
def test_a_manifest_file_that_cannot_be_used_is_told_in_a_sentence_with_its_name(tmp_path, content, said):
    file = tmp_path / "locara.json"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    done = subprocess.run(command("--manifest", str(file)), input=b"", capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"locara-sidecar: The manifest {file} {said}\n"


@pytest.mark.skipif(os.name != "posix", reason="as POSIX says it")
def test_a_file_that_the_system_refuses_at_the_start_is_named(tmp_path):
    code = "from locara_sidecar.daemon.wire import stdio\n"
    code += f"def claim(): open({str(tmp_path)!r})\nstdio.claim = claim\n"
    code += "from locara_sidecar.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "serve"], input=b"", capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"locara-sidecar: cannot start: {tmp_path}: Is a directory\n"
