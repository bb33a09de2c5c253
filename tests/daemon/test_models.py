"""The ``models.*`` methods on the wire, against a hub on loopback."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from msgspec import UNSET

from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
from locara_sidecar.daemon.model_methods.model_calls import MAX_WORKS
from locara_sidecar.models import operations
from locara_sidecar.models.cache import partial
from locara_sidecar.models.cache.store import Store
from support.host import error_of
from support.hub import FakeHub
from support.model_store import entry_data, write_model


@pytest.fixture
def hub(tmp_path):
    served = FakeHub()
    served.add("org/mine", write_model(tmp_path / "mine"))
    served.add("org/other", write_model(tmp_path / "other", seed=2))
    yield served
    served.close()


def hub_environment(hub, tmp_path):
    """Return this process's environment, with our hub; an engine made in this process may have set HF_HUB_OFFLINE."""
    mine = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    return mine | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def daemon(hosts, hub, tmp_path):
    """Start a daemon that knows two models of the hub."""
    (tmp_path / "catalogue").mkdir()
    for name in ("mine", "other"):
        data = json.dumps(entry_data(name, f"org/{name}"))
        (tmp_path / "catalogue" / f"{name}.json").write_text(data)

    def start(*flags, models=("mine",), **extra):
        env = hub_environment(hub, tmp_path)
        places = ("--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue"))
        host = hosts.spawn(*flags, *places, env=env, **extra)
        host.open(*models)
        return host

    return start


def test_a_model_is_downloaded_verified_shown_and_removed(daemon, hub):
    host = daemon(DOWNLOADS, MANAGEMENT)
    call = host.start("models.download", {"model": "mine"}, stream=True)
    messages = list(call.messages())
    result = call.result(30)
    assert messages[0]["phase"] == "resolving"
    told = {"model", "phase", "bytes", "totalBytes", "files", "totalFiles", "bytesPerSecond"}
    assert all(told <= set(message) <= told | {"etaMs"} for message in messages)
    assert messages[-1]["bytes"] == messages[-1]["totalBytes"] == result["bytes"]
    (shown,) = host.call("models.list", timeout=10)["models"]
    assert (shown["installed"], shown["digest"]) == (True, result["digest"])
    assert len(shown["source"][0]["revision"]) == 40
    call = host.start("models.verify", {"model": "mine"}, stream=True)
    assert {message["phase"] for message in call.messages()} == {"verifying"}
    assert call.result(30)["ok"] is True
    usage = host.call("models.usage", timeout=10)
    assert [entry["model"] for entry in usage["entries"]] == ["mine"]
    plan = host.call("models.remove", {"model": "mine", "dryRun": True}, timeout=10)
    assert plan == host.call("models.remove", {"model": "mine"}, timeout=10)
    assert host.call("models.usage", timeout=10)["bytes"] == 0
    assert not host.call("models.get", {"model": "mine"}, timeout=10)["installed"]


def test_the_list_tells_how_much_room_the_disk_has(daemon, tmp_path):
    told = daemon().call("models.list", timeout=10)["freeBytes"]
    disk = shutil.disk_usage(tmp_path)  # the cache's folder, which is not there yet, will be below it
    assert 0 < told <= disk.total
    assert abs(told - disk.free) < disk.total / 10


def test_of_a_disk_that_does_not_answer_nothing_is_told(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert operations.free_bytes(Store(tmp_path)) is UNSET


def test_what_a_model_s_files_say_is_told_in_a_few_words(daemon, tmp_path):
    """A name of megabytes in a file used to exceed the limits of a worker's line, and of a host's."""
    index = json.loads((tmp_path / "mine" / "model_index.json").read_text())
    index["k" * 3_000_000] = ["diffusers", "AutoencoderKL"]
    (tmp_path / "mine" / "model_index.json").write_text(json.dumps(index))
    host = daemon(MANAGEMENT)
    error = error_of(host.start("models.import", {"model": "mine", "from": str(tmp_path / "mine")}))
    assert error.kind == "ModelIncomplete"
    assert len(str(error)) + len(json.dumps(error.data)) < 10_000


@pytest.mark.slow
def test_collecting_is_planned_first_and_a_plan_changes_nothing(daemon):
    host = daemon(DOWNLOADS, MANAGEMENT)
    size = host.call("models.download", {"model": "mine"}, timeout=30)["bytes"]
    plan = host.call("models.gc", {"maxBytes": 0, "dryRun": True}, timeout=10)
    assert [model["model"] for model in plan["removed"]] == ["mine"]
    assert plan["bytes"] >= size
    assert host.call("models.gc", {"maxBytes": 10 * size}, timeout=10) == {"removed": [], "bytes": 0}
    assert host.call("models.get", {"model": "mine"}, timeout=10)["installed"]
    assert host.call("models.gc", {"maxBytes": 0}, timeout=10) == plan
    assert not host.call("models.get", {"model": "mine"}, timeout=10)["installed"]


@pytest.mark.slow
def test_a_cancelled_download_is_answered_soon_and_goes_on_later(daemon, hub):
    host = daemon(DOWNLOADS)
    fault = hub.fail("/cdn/", "drip")
    call = host.start("models.download", {"model": "mine"}, stream=True)
    for message in call.messages():
        if message["bytes"] > 400:
            break
    began = time.monotonic()
    call.cancel()
    assert error_of(call, 5).kind == "RequestCancelled"
    assert time.monotonic() - began < 2
    fault.times = 0
    host.call("models.download", {"model": "mine"}, timeout=30)
    assert any("range" in request.headers for request in hub.requests("/cdn/"))


@pytest.mark.slow
def test_a_check_that_takes_long_is_cancelled(daemon, tmp_path):
    folder = write_model(tmp_path / "catalogue" / "big")
    size = 4 << 30
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (folder / "transformer" / "zeros.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    data = entry_data("mine", source={"path": "big"})
    (tmp_path / "catalogue" / "mine.json").write_text(json.dumps(data))
    host = daemon()
    call = host.start("models.verify", {"model": "mine"}, stream=True)
    assert next(iter(call.messages()))["phase"] == "verifying"
    began = time.monotonic()
    call.cancel()
    assert error_of(call).kind == "RequestCancelled"
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_cancelled_import_has_given_back_the_disk_when_it_is_answered(daemon, tmp_path):
    folder = write_model(tmp_path / "big")
    size = 2 << 30
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (folder / "transformer" / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    host = daemon(MANAGEMENT)
    cache = tmp_path / "cache"
    call = host.start("models.import", {"model": "mine", "from": str(folder)}, stream=True)
    deadline = time.monotonic() + 20
    while not (list((cache / "blobs").glob("*")) and list(cache.glob("incoming/tree-*/copy-*"))):
        assert time.monotonic() < deadline
    call.cancel()
    assert error_of(call, 5).kind == "RequestCancelled"
    assert [path for path in cache.rglob("*") if path.is_file() and path.parent.name != "locks"] == []
    assert list((cache / "incoming").iterdir()) == []


@pytest.mark.slow
def test_the_daemon_ends_in_time_while_it_downloads(daemon, hub):
    host = daemon(DOWNLOADS)
    hub.fail("/cdn/", "drip")
    call = host.start("models.download", {"model": "mine"}, stream=True)
    next(iter(call.messages()))
    began = time.monotonic()
    host.call("shutdown", timeout=2)
    assert error_of(call, 0).kind == "RequestCancelled"  # its answer came before the one to shutdown
    host.close()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("flags", "method", "params", "reason"),
    [
        ((), "models.download", {"model": "mine"}, "hostFlag"),
        ((DOWNLOADS,), "models.download", {"model": "other"}, "notDeclared"),
        ((DOWNLOADS,), "models.import", {"model": "mine", "from": "/nowhere"}, "hostFlag"),
        ((DOWNLOADS,), "models.remove", {"model": "mine"}, "hostFlag"),
        ((DOWNLOADS,), "models.gc", {}, "hostFlag"),
        ((MANAGEMENT,), "models.get", {"model": "other"}, "notDeclared"),
    ],
)
def test_what_neither_manifest_nor_host_allows_is_denied(daemon, hub, flags, method, params, reason):
    host = daemon(*flags)
    error = error_of(host.start(method, params))
    assert (error.kind, error.data["reason"]) == ("CapabilityDenied", reason)
    assert hub.log == []


def test_only_granted_models_are_listed_and_unknown_ones_are_said_to_be(daemon):
    host = daemon(models=("other", "unknown"))
    assert [model["id"] for model in host.call("models.list", timeout=10)["models"]] == ["other"]
    assert error_of(host.start("models.get", {"model": "unknown"})).kind == "ModelNotFound"
    assert error_of(host.start("models.verify", {"model": "other"})).kind == "ModelNotInstalled"


@pytest.mark.slow
def test_usage_tells_an_app_of_its_own_models_and_a_manager_of_all(daemon, hosts, tmp_path):
    host = daemon(DOWNLOADS, models=("mine", "other"))
    for model in ("mine", "other"):
        host.call("models.download", {"model": model}, timeout=30)
    places = ("--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue"))
    for flags, told in (((), ["mine"]), ((MANAGEMENT,), ["mine", "other"])):
        other = hosts.spawn(*flags, *places)
        other.open("mine")
        usage = other.call("models.usage", timeout=10)
        assert sorted(entry["model"] for entry in usage["entries"]) == told
        whole, shared = (sum(entry[name] for entry in usage["entries"]) for name in ("bytes", "sharedBytes"))
        if told == ["mine"]:  # the totals reveal nothing to an app about what else is there
            assert (usage["bytes"], usage["reclaimableBytes"]) == (whole, whole - shared)
        else:
            assert usage["bytes"] == usage["reclaimableBytes"] == whole - shared // 2


def test_a_token_is_never_logged(daemon, hub, hosts, tmp_path):
    hub.repositories["org/mine"].gated = True
    host = hosts.spawn(
        DOWNLOADS, "--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue"),
        "--log-level", "debug", env=hub_environment(hub, tmp_path),
    )  # fmt: skip
    host.open("mine", auth={"token": hub.token})
    host.call("models.download", {"model": "mine"}, timeout=30)
    assert hub.token not in host.log()


def test_an_import_takes_the_place_of_a_download(daemon, hub, tmp_path):
    host = daemon(MANAGEMENT)
    result = host.call("models.import", {"model": "mine", "from": str(tmp_path / "mine")}, timeout=30)
    assert result["files"] == 5
    assert hub.log == []
    there = os.path.relpath(tmp_path / "mine")  # from where the daemon was started, which is no folder of its host's
    error = error_of(host.start("models.import", {"model": "mine", "from": there}))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.from")


@pytest.mark.slow
def test_why_a_download_failed_is_told_by_its_kind(daemon, hub):
    hub.repositories["org/mine"].gated = True
    error = error_of(daemon(DOWNLOADS).start("models.download", {"model": "mine"}))
    assert (error.kind, error.data["url"]) == ("LicenseNotAccepted", f"{hub.url}/org/mine")


def test_no_more_downloads_run_at_once_than_the_bound(daemon, hub):
    host = daemon(DOWNLOADS)
    hub.fail("/api/", "status", status=503, headers={"Retry-After": "60"})
    calls = [host.start("models.download", {"model": "mine"}) for _ in range(MAX_WORKS)]
    assert error_of(host.start("models.download", {"model": "mine"}), 5).kind == "QueueFull"
    for call in calls:
        call.cancel()
        assert error_of(call, 5).kind == "RequestCancelled"


@pytest.mark.slow
def test_a_download_that_waits_for_the_hub_ends_with_its_daemon(daemon, hub, tmp_path):
    host = daemon(DOWNLOADS)
    hub.pace = 0.2
    host.start("models.download", {"model": "mine"})
    incoming = tmp_path / "cache" / "incoming"
    deadline = time.monotonic() + 20
    while not (parts := [path for path in incoming.glob("[0-9a-f]*.part") if path.stat().st_size]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    hub.pace = 60.0  # one more piece of the weights, then nothing
    key = partial.key_of(parts[0])
    assert partial.claim(incoming, key) is None, "the worker writes it"
    host.process.kill()
    deadline = time.monotonic() + 2
    while (part := partial.claim(incoming, key)) is None:
        assert time.monotonic() < deadline, "the worker has outlived its daemon"
        time.sleep(0.02)
    part.close()


def test_a_model_with_a_folder_of_its_own_is_there_without_a_download(hosts, hub, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(entry_data("mine", source={"path": "nowhere"})))
    host = hosts.spawn(DOWNLOADS, "--catalogue", str(tmp_path), env=hub_environment(hub, tmp_path))
    host.open("pocket", "mine")
    result = host.call("models.download", {"model": "pocket"}, timeout=20)
    assert result["files"] > 3
    assert result["bytes"] > 1_000_000
    error = error_of(host.start("models.download", {"model": "mine"}))
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert hub.log == []


def test_listed_models_that_no_engine_runs_say_so(hosts, tmp_path):
    entry = json.loads((Path(__file__).parents[2] / "fixtures" / "models" / "tiny-sd3.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(entry | {"id": "other", "family": "another"}))
    host = hosts.session("--catalogue", str(tmp_path), models=("other",), engine="torch")
    (shown,) = host.call("models.list", timeout=10)["models"]
    assert (shown["runnable"], shown["installed"]) == (False, False)
    assert error_of(host.start("image.generate", {"prompt": "a"})).kind == "ModelNotInstalled"


SPEEDS = {
    "fake": {
        "pocket": [("exact", 1), ("balanced", 1), ("fast", 1)],
        "flux.1-schnell": [("exact", 1)],
        "cached-sdxl": [("exact", 1), ("fast", 1)],
        "other": [("exact", 1), ("fast", 1)],
    },
    "torch": {
        "pocket": [("exact", 1), ("balanced", 12), ("fast", 12)],
        "flux.1-schnell": [("exact", 1)],
        "cached-sdxl": [("exact", 1)],
        "other": [],
    },
}
SPEEDS["mlx"] = SPEEDS["torch"]


@pytest.mark.parametrize("engine", SPEEDS)
def test_the_speeds_of_each_model_are_told_before_any_engine_starts(hosts, tmp_path, engine):
    """Those that the engine has, whatever the host's own entry says."""
    for name, family in (("cached-sdxl", "sdxl"), ("other", "another")):
        entry = entry_data(name, family=family, speeds=["fast"])
        (tmp_path / f"{name}.json").write_text(json.dumps(entry))
    host = hosts.session("--catalogue", str(tmp_path), models=tuple(SPEEDS[engine]), engine=engine)
    rows = {model["id"]: model["speeds"] for model in host.call("models.list", timeout=10)["models"]}
    assert {row["engine"] for speeds in rows.values() for row in speeds} == {engine}
    told = {name: [(row["speed"], row["leastSteps"]) for row in speeds] for name, speeds in rows.items()}
    assert told == SPEEDS[engine]
    assert host.call("ping")["engine"]["state"] == "stopped"


@pytest.mark.slow
def test_a_large_pinned_model_is_hashed_while_other_calls_are_served(hosts, tmp_path):
    """The host's own folder, whose digest is not known yet."""
    catalogue = tmp_path / "catalogue"
    folder = write_model(catalogue / "big")
    with (folder / "transformer" / "zeros.bin").open("wb") as file:
        file.truncate(1 << 30)
    (catalogue / "mine.json").write_text(json.dumps(entry_data("mine", source={"path": "big"})))
    host = hosts.spawn("--catalogue", str(catalogue))
    host.open("mine@sha256:" + "0" * 64)
    for again in (False, True):
        call = host.start("image.generate", {"prompt": "a lake", "options": {"steps": 1}})
        began = time.monotonic()
        host.call("ping", timeout=20)
        answered = time.monotonic() - began
        error = error_of(call, 50)
        hashed = time.monotonic() - began
        assert (error.kind, error.data["reason"]) == ("CapabilityDenied", "digestMismatch")
        assert error.data["host"] == {"models": {"mine": "sha256:" + "0" * 64}}
        assert again or answered < hashed / 3
    decisions = [entry["decision"] for entry in host.call("audit.capabilityLog")["entries"]]
    assert decisions == ["allow", "deny", "deny"], "the second time its digest is known from the start"
    assert host.files() == []


@pytest.mark.slow
def test_another_model_than_the_manifest_pins_is_shown_as_not_granted_and_denied(daemon, hosts, tmp_path):
    host = daemon(DOWNLOADS)
    digest = host.call("models.download", {"model": "mine"}, timeout=30)["digest"]
    places = ("--cache-dir", str(tmp_path / "cache"), "--catalogue", str(tmp_path / "catalogue"))
    for pinned in (digest, "sha256:" + "0" * 64):
        other = hosts.spawn(*places)
        other.open(f"mine@{pinned}")
        (shown,) = other.call("models.list", timeout=10)["models"]
        assert (shown["installed"], shown["granted"]) == (True, pinned == digest)
        if pinned == digest:
            assert other.call("models.verify", {"model": "mine"}, timeout=30)["ok"]
            continue
        for method in ("models.get", "models.verify", "models.load"):
            error = error_of(other.start(method, {"model": "mine"}))
            assert (error.kind, error.data["reason"]) == ("CapabilityDenied", "digestMismatch")
            assert error.data["host"] == {"models": {"mine": pinned}}
