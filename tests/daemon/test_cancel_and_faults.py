"""Cancelling in every phase and with every spelling, and an engine that crashes, hangs or sends nonsense."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from locara_protocol.client import Sidecar
from locara_sidecar.machine.engine_choice import installed
from support.host import command, error_of, manifest, until

SLOW = {
    "queued": {},
    "loading": {"LOCARA_FAKE_LOAD_MS": "20000"},
    "encoding": {"LOCARA_FAKE_ENCODE_MS": "20000"},
    "denoising": {"LOCARA_FAKE_STEP_MS": "20000"},
    "decoding": {"LOCARA_FAKE_DECODE_MS": "20000"},
}
"""The fake engine's settings that make each phase slow."""


@pytest.mark.alone
@pytest.mark.parametrize("phase", SLOW)
def test_a_cancel_in_each_phase_is_answered_and_leaves_nothing(phase, hosts):
    host = hosts.session(env={**os.environ, **SLOW[phase]})
    first = host.begin("fake:slow=20000 first", steps=2) if phase == "queued" else None
    for _ in range(2):  # the stopped engine takes the next job
        call = host.begin(steps=2)
        until(call, phase)
        began = time.monotonic()
        call.cancel()
        error = error_of(call, 5)
        assert (error.code, error.kind, error.data["images"]) == (-32800, "RequestCancelled", [])
        assert time.monotonic() - began < 1.5
    if first is not None:
        first.cancel()
        error_of(first, 5)
        assert host.generate(steps=1)["images"]
    else:
        assert host.files() == []


@pytest.mark.parametrize("spelling", ["$/cancelRequest", "$/cancel_request", "notifications/cancelled", "image.cancel"])
def test_all_four_spellings_cancel(spelling, hosts):
    host = hosts.session()
    call = host.begin("fake:slow=20000 a lake", steps=2)
    job = until(call, "denoising")["jobId"]
    if spelling == "image.cancel":
        assert host.call(spelling, {"jobId": job}) == {"cancelled": True}
    else:
        host.notify(spelling, {"requestId" if spelling.startswith("n") else "id": call.id})
    assert error_of(call, 5).code == -32800


def test_a_cancel_on_the_line_after_the_request_is_answered(hosts):
    host = hosts.session()
    for _ in range(10):
        call = host.begin(steps=50)
        call.cancel()
        assert error_of(call, 10).code == -32800


@pytest.mark.slow
def test_what_was_finished_before_a_cancel_is_told_and_kept(hosts):
    host = hosts.session()
    call = host.begin("fake:slow=40 a lake", steps=3, count=8)
    for message in call.messages():
        if message["image"] == 3:
            break
    call.cancel()
    images = error_of(call, 5).data["images"]
    assert 1 <= len(images) < 8
    assert sorted(host.files()) == sorted(image["relativePath"] for image in images)


@pytest.mark.slow
def test_a_late_cancel_never_touches_the_next_job(hosts):
    host = hosts.session()
    first = host.begin(steps=1)
    first.result(10)
    second = host.begin("fake:slow=20 a lake", steps=10)
    until(second, "denoising")
    first.cancel()
    host.notify("$/cancelRequest", {"id": str(second.id)})
    assert second.result(10)["images"]


@pytest.mark.parametrize("phase", ["loading", "encoding", "denoising", "decoding"])
def test_a_crash_is_told_at_once_and_the_next_job_works(phase, hosts):
    host = hosts.session()
    error = error_of(host.begin(f"fake:segv={phase} a lake", steps=3))
    assert (error.kind, error.data["signal"], error.data["phase"]) == ("EngineCrashed", "SIGSEGV", phase)
    assert error.data["images"] == []
    assert host.generate(steps=1)["images"]
    assert len(host.files()) == 1


@pytest.mark.alone
def test_an_engine_that_is_killed_is_told_within_a_quarter_second(hosts):
    host = hosts.session()
    call = host.begin("fake:slow=20000 a lake", steps=2)
    until(call, "denoising")
    os.kill(host.call("ping")["engine"]["pid"], signal.SIGKILL)
    began = time.monotonic()
    assert error_of(call).data["signal"] == "SIGKILL"
    assert time.monotonic() - began < 0.25
    assert host.call("ping")["engine"]["state"] in ("dead", "stopped")


def test_what_was_finished_before_a_crash_is_told_and_kept(hosts):
    host = hosts.session()
    call = host.begin("fake:slow=40 a lake", steps=3, count=8)
    for message in call.messages():
        if message["image"] == 3:
            break
    os.kill(host.call("ping")["engine"]["pid"], signal.SIGKILL)
    error = error_of(call)
    assert error.kind == "EngineCrashed"
    assert 1 <= len(error.data["images"]) < 8
    assert sorted(host.files()) == sorted(image["relativePath"] for image in error.data["images"])


@pytest.mark.slow
def test_an_engine_that_hangs_with_the_interpreter_lock_held_is_killed_at_its_deadline(hosts):
    host = hosts.session("--stall-timeout", "1")
    call = host.begin("fake:hang=denoising a lake", steps=3)
    until(call, "denoising")
    began = time.monotonic()
    error = error_of(call)
    assert (error.kind, error.retryable) == ("EngineStalled", True)
    assert time.monotonic() - began < 3
    assert host.generate(steps=1)["images"]


def test_a_cancel_of_a_hung_engine_is_answered(hosts):
    host = hosts.session()
    call = host.begin("fake:hang=denoising a lake", steps=3)
    until(call, "denoising")
    call.cancel()
    assert error_of(call, 6).code == -32800
    assert host.generate(steps=1)["images"]


@pytest.mark.slow
def test_an_unforeseen_failure_while_saving_costs_one_call_and_not_the_daemon(tmp_path):
    planted = """
from locara_sidecar.capability.files.confined import ConfinedFolder
def save(*_, **__):
    raise ValueError("zanzibar")
ConfinedFolder.save = save
from locara_sidecar.__main__ import main
main()
"""
    with Sidecar([sys.executable, "-c", planted, "serve", "--engine", "fake"], stderr=subprocess.PIPE) as sidecar:
        sidecar.initialize(manifest=manifest(), grants={"user-folder": str(tmp_path)})
        call = sidecar.start("image.generate", {"prompt": "x", "options": {"count": 2}}, stream=True)
        error = error_of(call)
        assert (error.kind, error.data["images"], "zanzibar" in error.message) == ("InternalError", [], False)
        inline = {"steps": 1, "output": {"mode": "inline"}}
        assert sidecar.call("image.generate", {"prompt": "x", "options": inline}, timeout=20)["images"]
        assert not sidecar.violations
    with sidecar.process.stderr as log:
        assert b"zanzibar" not in log.read()


def test_nan_is_invalid_output_and_nothing_is_saved(hosts):
    host = hosts.session()
    assert error_of(host.begin("fake:nan", steps=2)).kind == "InvalidOutput"
    assert host.files() == []


@pytest.mark.slow
def test_an_idle_engine_ends_and_the_next_job_starts_it_again(hosts):
    host = hosts.session("--idle-unload", "0.2")
    host.generate(steps=1)
    deadline = time.monotonic() + 10
    while host.call("ping")["engine"]["state"] != "stopped":
        assert time.monotonic() < deadline
    assert host.generate(steps=1)["images"]


def test_foreign_bytes_on_the_engines_stdout_never_reach_the_wire(hosts):
    host = hosts.session("--log-level", "debug")
    call = host.begin("fake:stderr a lake", steps=2)
    assert call.result(20)["images"]
    assert not host.violations
    assert all(line.startswith(b'{"jsonrpc"') for way, line in host.lines if way == "receive")


def test_ping_is_answered_while_a_picture_is_made(hosts):
    host = hosts.session()
    call = host.begin("fake:slow=50 a lake", steps=20)
    until(call, "denoising")
    for _ in range(50):
        answer = host.call("ping", timeout=2)
        assert answer["engine"]["state"] == "busy"
        assert answer["jobs"]["running"] == 1
    call.cancel()
    error_of(call, 5)


@pytest.mark.slow
def test_a_host_that_only_asks_is_held_back_until_it_reads():
    pings = b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n' % number for number in range(100_000))
    with subprocess.Popen(
        command("--engine", "fake", "--log-level", "error"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as daemon:
        written = 0

        def write():
            nonlocal written
            while written < len(pings):
                written += os.write(daemon.stdin.fileno(), pings[written : written + 65536])
            daemon.stdin.close()

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        before = -1
        while before != written:  # until nothing more is written
            before = written
            writer.join(0.5)
        grown = psutil.Process(daemon.pid).memory_info().rss
        assert written < len(pings)
        answers = b"".join(iter(lambda: daemon.stdout.read(1 << 20), b""))
        writer.join(10)
    assert [json.loads(answer)["id"] for answer in answers.splitlines()] == list(range(100_000))
    assert grown < 48 << 20


@pytest.mark.slow
def test_a_host_that_stops_reading_costs_little_memory_and_loses_no_answer(tmp_path):
    def line(request_id, method, params):
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode() + b"\n"

    preview = {"maxBytes": 40960, "mimeType": "image/png"}
    opening = {"protocolVersion": 1, "clientInfo": {"name": "t", "version": "1"}, "manifest": manifest("sd3.5-medium")}
    many = {
        "width": 1024,
        "height": 1024,
        "steps": 200,
        "count": 2,
        "preview": preview,
        "output": {"path": "a.jpg", "mimeType": "image/jpeg"},
    }
    with subprocess.Popen(
        command("--engine", "fake", "--log-level", "error"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LOCARA_FAKE_STEP_MS": "2"},
    ) as daemon:
        daemon.stdin.write(line(1, "initialize", {**opening, "grants": {"user-folder": str(tmp_path)}}))
        daemon.stdin.flush()
        daemon.stdout.readline()
        before = psutil.Process(daemon.pid).memory_info().rss
        daemon.stdin.write(line(2, "image.generate", {"prompt": "a lake", "channel": 9, "options": many}))
        daemon.stdin.flush()
        deadline = time.monotonic() + 40
        while not (tmp_path / "a-2.jpg").exists():
            assert time.monotonic() < deadline
        grown = psutil.Process(daemon.pid).memory_info().rss - before
        messages = []
        while True:
            message = json.loads(daemon.stdout.readline())
            if message.get("id") == 2:
                break
            messages.append(message["params"])
        daemon.stdin.close()
    assert len(message["result"]["images"]) == 2
    assert [frame["index"] for frame in messages] == list(range(len(messages)))
    assert messages[-1]["end"] is True
    assert len(messages) < 200
    assert messages[-2]["message"]["phase"] == "saving"
    assert grown < 16 << 20


SLOW_DISK = """
import os, sys, time

sync = os.fsync

def slowly(fd):
    while os.path.exists(os.environ["HELD"]):
        time.sleep(0.01)
    sync(fd)

if "serve" in sys.argv:
    os.fsync = slowly
"""


@pytest.mark.quick_cases("fake")
@pytest.mark.parametrize("engine", ["fake", *(pytest.param(n, marks=getattr(pytest.mark, n)) for n in installed())])
def test_a_cancel_while_a_picture_is_being_saved_is_answered_and_leaves_nothing(tmp_path, hosts, engine):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(SLOW_DISK)
    held = tmp_path / "held"
    path = os.pathsep.join([str(tmp_path / "start"), *filter(None, [os.environ.get("PYTHONPATH")])])
    host = hosts.session(engine=engine, env={**os.environ, "PYTHONPATH": path, "HELD": str(held)})
    held.touch()
    call = host.begin(steps=2)
    until(call, "saving")
    call.cancel()
    host.call("ping")  # so the cancel has been read
    held.unlink()
    error = error_of(call, 30)
    assert (error.code, error.kind, error.data["images"]) == (-32800, "RequestCancelled", [])
    assert host.files() == []
    assert len(host.generate(steps=1)["images"]) == 1
    assert len(host.files()) == 1, "the thread that nobody waited for has saved nothing later"
