"""models.load and models.unload through the real daemon: whose turn it is, what ping says, what never happens."""

import json
import os
import subprocess
import time
from types import SimpleNamespace

import anyio
import pytest

from locara_protocol.messages import NoParams
from locara_protocol.model_messages import UnloadResult
from locara_sidecar.daemon.jobs.in_flight import InFlight
from locara_sidecar.daemon.model_methods.engine_calls import EngineCalls
from support.host import PROMPT, command, error_of, manifest, until
from support.model_store import entry_data, write_model

MEDIUM = "sd3.5-medium"
SLOW = {**os.environ, "LOCARA_FAKE_LOAD_MS": "20000"}


def load(host, model="pocket", **params):
    return host.start("models.load", {"model": model, **params}, stream=True)


def engine(host):
    return host.call("ping")["engine"]


def test_a_model_is_loaded_and_the_next_call_finds_it(hosts):
    host = hosts.session(env={**os.environ, "LOCARA_FAKE_LOAD_MS": "500"})
    call = load(host, quantization="8bit")
    messages = list(call.messages())
    result = call.result(10)
    assert (result["model"], result["engine"], result["device"], result["quantization"]) == (
        "pocket",
        "fake",
        "cpu",
        "8bit",
    )
    assert result["memoryBytes"] > 0
    assert list(dict.fromkeys(message["phase"] for message in messages)) == ["queued", "loading"]
    done = [message["bytes"] for message in messages if message["phase"] == "loading"]
    assert len(done) > 2
    assert done == sorted(done)
    assert messages[-1]["bytes"] == messages[-1]["totalBytes"] > 0
    assert (engine(host)["model"], engine(host)["state"]) == ("pocket", "idle")
    assert host.generate(steps=1, quantization="8bit")["timings"]["loadMs"] == 0
    assert host.generate(steps=1, quantization="none")["timings"]["loadMs"] >= 500


@pytest.mark.slow
def test_a_model_that_is_loaded_is_told_at_once(hosts):
    host = hosts.session(env={**os.environ, "LOCARA_FAKE_LOAD_MS": "3000"})
    load(host).result(20)
    pid, began = engine(host)["pid"], time.monotonic()
    call = load(host)
    assert list(call.messages())[-1]["phase"] == "loading"
    assert call.result(10)["quantization"] == "none"
    assert time.monotonic() - began < 2
    assert engine(host)["pid"] == pid


@pytest.mark.slow
def test_another_model_takes_its_place(hosts):
    host = hosts.session(models=("pocket", MEDIUM))
    load(host).result(10)
    assert engine(host)["model"] == "pocket"
    load(host, MEDIUM).result(10)
    assert engine(host)["model"] == MEDIUM


@pytest.mark.slow
def test_loading_takes_its_turn_behind_the_jobs_before_it(hosts):
    host = hosts.session(models=("pocket", MEDIUM))
    running = host.begin("fake:slow=30 a lake", steps=10, model="pocket")
    until(running, "denoising")
    call = load(host, MEDIUM)
    jobs = host.call("jobs.list")["jobs"]
    assert [(job["method"], job["state"], job["model"]) for job in jobs] == [
        ("image.generate", "running", "pocket"),
        ("models.load", "queued", MEDIUM),
    ]
    assert "last" not in jobs[1]
    call.result(20)
    assert running.result(0.5)["images"]
    assert engine(host)["model"] == MEDIUM


@pytest.mark.slow
def test_the_queue_counts_it_too(hosts):
    host = hosts.session("--queue", "1")
    running = host.begin("fake:slow=20000 a lake", steps=2)
    until(running, "denoising")
    waiting = load(host)
    assert error_of(load(host)).kind == "QueueFull"
    running.cancel()
    error_of(running, 5)
    assert waiting.result(10)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["notification", "job"])
def test_a_cancel_while_loading_is_answered_and_no_model_is_claimed(hosts, way):
    host = hosts.session(env=SLOW)
    for _ in range(2):
        call = load(host)
        for message in call.messages():
            if message["phase"] == "loading":
                break
        deadline = time.monotonic() + 10
        while engine(host)["state"] != "busy":
            assert time.monotonic() < deadline
        if way == "job":
            job = host.call("jobs.list")["jobs"][0]  # ended jobs come last
            assert host.call("image.cancel", {"jobId": job["jobId"]}) == {"cancelled": True}
        else:
            call.cancel()
        error = error_of(call, 5)
        assert (error.code, error.data["images"]) == (-32800, [])
        assert engine(host)["model"] is None
    assert [job["state"] for job in host.call("jobs.list")["jobs"]] == ["cancelled", "cancelled"]


@pytest.mark.alone
@pytest.mark.parametrize("method", ["models.load", "image.generate"])
def test_a_cancel_while_a_large_model_is_hashed_is_answered_soon_and_starts_no_engine(hosts, tmp_path, method):
    folder = write_model(tmp_path / "big")
    with (folder / "transformer" / "zeros.bin").open("wb") as file:
        file.truncate(64 << 30)  # a sparse file: no space on disk, and a minute or so to hash
    (tmp_path / "mine.json").write_text(json.dumps(entry_data("mine", source={"path": "big"})))
    host = hosts.spawn("--catalogue", str(tmp_path))
    granted = manifest(f"mine@sha256:{'0' * 64}")
    host.initialize(manifest=granted, grants={"user-folder": str(host.folder)})
    params = {"model": "mine"} if method == "models.load" else {"prompt": "a lake", "options": {"model": "mine"}}
    call = host.start(method, params, stream=True)
    for message in call.messages():
        if message["phase"] == "loading":
            break
    began = time.monotonic()
    call.cancel()
    assert error_of(call, 30).code == -32800
    assert time.monotonic() - began < 1
    assert engine(host)["pid"] is None


def test_a_cancel_on_the_line_after_the_load_is_answered_and_starts_no_engine(hosts):
    host = hosts.session()
    asked = {"jsonrpc": "2.0", "id": "load", "method": "models.load", "params": {"model": "pocket"}}
    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": "load"}}
    host.send_raw(json.dumps(asked).encode() + b"\n" + json.dumps(cancel).encode())  # read all at once
    answer = host.next_unmatched(10)
    assert (answer["id"], answer["error"]["code"]) == ("load", -32800)
    assert engine(host)["pid"] is None


def test_a_cancel_while_it_waits_is_answered_at_once(hosts):
    host = hosts.session()
    running = host.begin("fake:slow=20000 a lake", steps=2)
    until(running, "denoising")
    call = load(host)
    call.cancel()
    assert error_of(call, 2).code == -32800
    assert host.call("jobs.list")["jobs"][0]["state"] == "running"
    running.cancel()
    error_of(running, 5)


@pytest.mark.slow
def test_a_crash_while_loading_is_told_and_the_daemon_lives(hosts):
    host = hosts.session(env={**os.environ, "LOCARA_FAKE_FAULTS": "fake:kill=loading"})
    error = error_of(load(host))
    assert (error.kind, error.data["signal"], error.data["phase"]) == ("EngineCrashed", "SIGKILL", "loading")
    assert engine(host)["model"] is None


def test_what_is_not_granted_known_or_there_is_not_loaded(hosts):
    host = hosts.session(models=("dream-9", MEDIUM), engine="torch")
    denied = error_of(load(host, "pocket"))
    assert (denied.kind, denied.data["reason"]) == ("CapabilityDenied", "notDeclared")
    assert denied.data["declare"] == {"capabilities": {"models": ["pocket"]}}
    assert error_of(load(host, "dream-9")).kind == "ModelNotFound"
    assert error_of(load(host, MEDIUM)).kind == "ModelNotInstalled"
    assert engine(host)["state"] == "stopped"
    host = hosts.session(engine="torch")
    error = error_of(load(host, engine="mlx"))
    assert (error.kind, error.data["engine"]) == ("EngineUnavailable", "mlx")


OTHER = "pocket@sha256:" + "0" * 64


@pytest.mark.parametrize("models", [[OTHER], [OTHER, "pocket"], ["pocket", OTHER]])
def test_a_model_of_another_digest_than_the_pinned_one_is_not_loaded(hosts, models):
    host = hosts.spawn()
    host.initialize(manifest=manifest(*models))
    error = error_of(load(host))
    assert (error.kind, error.data["reason"]) == ("CapabilityDenied", "digestMismatch")


# --- unloading -------------------------------------------------------------------------------


@pytest.mark.slow
def test_unloading_ends_an_idle_engine_and_the_next_call_starts_one(hosts):
    host = hosts.session()
    assert host.call("models.unload") == {"unloaded": False}
    load(host).result(10)
    assert host.call("models.unload", timeout=10) == {"unloaded": True}
    assert (engine(host)["state"], engine(host)["model"], engine(host)["pid"]) == ("stopped", None, None)
    assert host.call("models.unload") == {"unloaded": False}
    assert host.generate(steps=1)["images"]


def test_what_was_loaded_is_given_back_before_the_unload_is_answered():
    order = []

    class Engine:
        async def unload(self):
            order.append("ended")
            return True

    async def settle():
        order.append("given back")

    use = SimpleNamespace(settle=settle)
    call = SimpleNamespace(id=1, succeed=order.append)

    async def body():
        async with anyio.create_task_group() as tasks:
            in_flight = InFlight(tasks.start_soon)
            shared = SimpleNamespace(engine=Engine(), use=use, in_flight=in_flight)
            calls = EngineCalls(shared, SimpleNamespace(all=list), None)
            assert calls.unload(call, NoParams()) is None
            await in_flight.wait_until_idle()

    anyio.run(body)
    assert order == ["ended", "given back", UnloadResult(unloaded=True)]


@pytest.mark.slow
def test_unloading_never_stops_what_runs_or_waits(hosts):
    host = hosts.session()
    running, waiting = host.begin("fake:slow=40 a lake", steps=10), host.begin(steps=1)
    until(running, "denoising")
    pid = engine(host)["pid"]
    assert host.call("models.unload") == {"unloaded": False}
    assert running.result(20)["images"]
    assert waiting.result(20)["images"]
    assert engine(host)["pid"] == pid


@pytest.mark.slow
def test_a_call_on_the_line_after_an_unload_gets_a_new_engine(hosts):
    host = hosts.session()
    load(host).result(10)
    pid = engine(host)["pid"]
    unloading = host.start("models.unload")
    drawing = host.begin(PROMPT, steps=1)
    assert unloading.result(10) == {"unloaded": True}
    assert drawing.result(20)["images"]
    assert engine(host)["pid"] != pid


@pytest.mark.slow
def test_an_unload_on_the_last_line_is_answered_before_the_end(tmp_path):
    opening = {"protocolVersion": 1, "clientInfo": {"name": "t", "version": "1"}, "manifest": manifest("pocket")}
    with subprocess.Popen(
        command("--engine", "fake", "--log-level", "error"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:

        def say(number, method, params):
            message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            daemon.stdin.write(json.dumps(message).encode() + b"\n")
            daemon.stdin.flush()

        say(1, "initialize", opening)
        say(2, "models.load", {"model": "pocket"})
        assert [json.loads(daemon.stdout.readline())["id"] for _ in range(2)] == [1, 2]
        say(3, "models.unload", {})
        daemon.stdin.close()
        answer = json.loads(daemon.stdout.readline())
    assert (answer["id"], answer["result"]) == (3, {"unloaded": True})
