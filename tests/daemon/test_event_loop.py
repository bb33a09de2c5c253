"""The event loop never waits for a disk: a thread reads what calls need from it, in the order of the calls."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.to_thread
import pytest

from locara_protocol.client import RemoteError, Sidecar
from locara_protocol.errors import RpcError
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import AccessRequest, authorize
from locara_sidecar.capability.policy import Policy
from locara_sidecar.daemon.access.gate import Gate
from locara_sidecar.daemon.access.model_use import ModelUse
from locara_sidecar.models import catalogue
from locara_sidecar.models.cache import collect
from locara_sidecar.models.cache.digest import model_digest
from locara_sidecar.models.cache.store import Store
from locara_sidecar.models.imports.importing import import_model
from support import loop_watch
from support.host import command, manifest
from support.model_store import entry_data, entry_for, write_model

MODELS = 20
CALLS = 1000


@pytest.fixture
def places(tmp_path):
    """A cache with many models, and a catalogue that lists them."""
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "pictures").mkdir()
    store = Store(tmp_path / "cache")
    for number in range(MODELS):
        folder = write_model(tmp_path / "source" / str(number), size=100, seed=number)
        import_model(store, entry_for(f"m{number}"), folder, lambda _: None)
        (tmp_path / "catalogue" / f"m{number}.json").write_text(json.dumps(entry_data(f"m{number}", f"org/m{number}")))
    return tmp_path


def watched(places, *flags):
    words = command("--engine", "fake", "--cache-dir", str(places / "cache"), "--catalogue", str(places / "catalogue"))
    words[1:3] = ["-m", "support.loop_watch", str(places / "notes")]
    return Sidecar([*words, *flags], env=environment())


def environment():
    """Return this process's environment, with the tests on the module path."""
    tests = str(Path(loop_watch.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])}


def app(places):
    declared = [*(f"m{number}" for number in range(1, MODELS)), {"id": "m0", "digest": digest(places, "m0")}]
    return manifest(
        *declared, fs={"user-folder": "read-write", "app-data": "read-write", "user-selected": "read-write"}
    )


def digest(places, model):
    return Store(places / "cache").find(model).meta.digest


def calls(places, number):
    """Yield one call of most methods, with valid parameters that depend on ``number``."""
    model = f"m{number % MODELS}"
    drawn = {"model": model, "steps": 1, "width": 256, "height": 256, "output": {"mode": "inline"}}
    yield "ping", {}
    yield "models.get", {"model": model}
    yield "image.generate", {"prompt": "a lake", "options": {"model": f"no-{model}"}}
    yield "models.list", {}
    yield "jobs.list", {}
    yield "system.info", {}
    yield "models.usage", {}
    yield "rpc.discover", {}
    yield "models.load", {"model": model, "engine": "mlx"} if number % 10 else {"model": model}
    yield "image.generate", {"prompt": "a lake", "options": {"model": model, "width": 3}}
    yield "image.edit", {"prompt": "a lake", "options": drawn, "image": {"root": "user-folder", "path": "none.png"}}
    yield "host.pickFile", {"path": str(places / "pictures" / "none.png"), "access": "read"}
    yield "host.releaseFile", {"handle": "file-" + "0" * 32}
    yield "image.cancel", {"jobId": "job-0"}
    yield "audit.capabilityLog", {}
    if number % 10 == 0:
        yield "image.generate", {"prompt": "a lake", "options": drawn}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_callback_of_the_loop_makes_a_file_system_call_whatever_is_asked(places):
    told = []
    with watched(places) as sidecar:
        grants = {"user-folder": str(places / "pictures"), "app-data": str(places / "pictures")}
        sidecar.initialize(manifest=app(places), grants=grants)
        asked = answered = 0
        for number in range(CALLS):
            begun = [sidecar.start(method, params) for method, params in calls(places, number)]
            for call in begun:
                try:
                    call.result(60)
                    answered += 1
                except RemoteError as error:
                    told.append(error.kind)
            asked += len(begun)
            if asked >= CALLS:
                break
    assert answered > CALLS / 2
    assert "InternalError" not in told, told
    notes = (places / "notes").read_text().splitlines()
    assert notes == []


@pytest.mark.slow
def test_holding_a_model_makes_no_file_system_call_on_the_event_loop(places):
    """With an engine that reads files: locks, leases and memory promises are kept off the loop, too."""
    code = f"""
import anyio
from pathlib import Path
from support import loop_watch
from daemon.test_event_loop import hold, holding
notes, what = [], holding(Path({str(places)!r}))
loop_watch.install(notes.append)
anyio.run(hold, *what)
print("\\n".join(notes))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode().strip() == ""


def holding(places):
    """Return a gate, a grant for a model of its store, and the model's key."""
    known = catalogue.load(places / "catalogue").with_cache(places / "cache")
    policy = Policy.build(app(places), None)
    grant = authorize(policy, METHODS["models.get"], AccessRequest(models=("m3",)))
    return Gate(known, "torch", lambda: policy, lambda *_: None), grant, known.store.find("m3").key


async def hold(gate, grant, key):
    """Hold the model, check that its lock is visible, and release it."""
    store = gate.catalogue.store
    for _ in range(2):
        async with anyio.create_task_group() as tasks:
            use = ModelUse(gate, lambda: SimpleNamespace(state="stopped"), tasks.start_soon)
            async with use.held(
                None, grant, gate.catalogue.get("m3"), quantization=None, precision=None, read=lambda _: None
            ) as m:
                assert (m.digest, Path(m.path).name) == (f"sha256:{key}", key)
                assert await anyio.to_thread.run_sync(store.in_use, key)
            assert not await anyio.to_thread.run_sync(store.in_use, key)
            tasks.cancel_scope.cancel()


@pytest.mark.slow
def test_what_others_install_and_remove_is_seen_by_the_next_call(places):
    store = Store(places / "cache")
    with watched(places) as sidecar:
        sidecar.initialize(manifest=app(places), grants={})
        collect.remove(store, collect.plan_remove(store, "m2"), "m2")
        assert sidecar.call("models.get", {"model": "m2"}, timeout=30)["installed"] is False
        with pytest.raises(RemoteError) as caught:
            sidecar.call("models.verify", {"model": "m2"}, timeout=30)
        assert caught.value.kind == "ModelNotInstalled"
        import_model(store, entry_for("m2"), places / "source" / "2", lambda _: None)
        assert sidecar.call("models.verify", {"model": "m2"}, timeout=30)["ok"] is True


@pytest.mark.slow
def test_a_line_is_looked_at_when_the_calls_before_it_are_accepted_or_refused(places):
    with watched(places) as sidecar:
        sidecar.initialize(manifest=app(places), grants={})
        for _ in range(20):
            drawn = {"steps": 50, "output": {"mode": "inline"}}
            job = sidecar.start("image.generate", {"prompt": "a lake", "options": {"model": "m1", **drawn}})
            listed = sidecar.start("jobs.list", {})
            job.cancel()
            (shown,) = [one for one in listed.result(30)["jobs"] if one["requestId"] == job.id]
            assert shown["state"] in ("queued", "running")
            with pytest.raises(RemoteError) as caught:
                job.result(30)
            assert caught.value.kind == "RequestCancelled"


@pytest.mark.parametrize("more", [[], ["own"]])  # also listing it without a digest does not lift the pin
def test_every_call_about_a_pinned_model_goes_by_the_digest_that_is_known(tmp_path, more):
    """This includes the host's own folder: once it is hashed, no method mistakes it for the pinned one."""
    (tmp_path / "catalogue").mkdir()
    write_model(tmp_path / "catalogue" / "own", size=100)
    (tmp_path / "catalogue" / "own.json").write_text(json.dumps(entry_data("own", source={"path": "own"})))
    known = catalogue.load(tmp_path / "catalogue").with_cache(tmp_path / "cache")
    policy = Policy.build(manifest({"id": "own", "digest": "sha256:" + "0" * 64}, *more), None)
    gate = Gate(known, "fake", lambda: policy, lambda *_: None)
    call = SimpleNamespace(id=1, method="models.get")
    with pytest.raises(RuntimeError, match="have not been looked up"):
        gate.about(call, "own")
    gate.look()
    assert gate.about(call, "own")[0].id == "own"  # its digest is not known yet
    assert gate.readable() == []
    model_digest(known.own_folder("own"))
    gate.look()
    for ask in (lambda: gate.about(call, "own"), lambda: gate.named(call, "own", None)):
        with pytest.raises(RpcError) as caught:
            ask()
        assert (caught.value.kind, caught.value.data["reason"]) == ("CapabilityDenied", "digestMismatch")
    assert not gate.holds("own")
