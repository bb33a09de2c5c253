"""Each method of the table through the real daemon: denied without declarations, served with what the denials ask for.

The gate itself is tested in ``tests/capability``; this shows that no handler bypasses it.
"""

import functools

import anyio
import pytest

from locara_protocol.client import RemoteError
from locara_protocol.manifest import merge
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import AccessRequest, authorize
from locara_sidecar.capability.policy import Policy
from locara_sidecar.daemon.access.gate import Gate
from locara_sidecar.daemon.access.model_use import ModelUse
from locara_sidecar.daemon.model_methods.model_work import run_work
from locara_sidecar.models.catalogue import load
from locara_sidecar.models.worker import WorkerRequest
from support.method_params import PARAMS

BARE = {"schema": "locara/v1", "name": "studio", "publisher": "example", "version": "1"}
FENCED = [method for method in METHODS.values() if method.need != "none"]


def denials(host):
    """Return the denial of each call; anything else fails."""
    found = {}
    for method in FENCED:
        with pytest.raises(RemoteError) as caught:
            host.call(method.name, PARAMS[method.name], timeout=20)
        assert caught.value.kind == "CapabilityDenied", method.name
        found[method.name] = caught.value.data
    return found


@pytest.mark.parametrize("manifest", [None, BARE], ids=["no manifest", "a manifest that declares nothing"])
def test_nothing_is_served_by_default_and_each_refusal_is_in_the_log(hosts, manifest):
    host = hosts.spawn()
    host.initialize(manifest=manifest, grants={"user-folder": str(host.folder)})
    found = denials(host)
    entries = host.call("audit.capabilityLog")["entries"]
    assert [entry["decision"] for entry in entries] == ["deny"] * len(FENCED)
    assert [entry["reason"] for entry in entries] == [data["reason"] for data in found.values()]
    assert len({entry["requestId"] for entry in entries}) == len(FENCED)
    assert host.call("models.list", timeout=10) == {"models": []}
    assert host.call("models.usage", timeout=10)["entries"] == []
    assert host.files() == []


@pytest.mark.slow
def test_what_the_refusals_ask_for_is_enough_for_every_method(hosts, tmp_path):
    host = hosts.spawn()
    host.initialize(manifest=BARE)
    found = denials(host)
    app = functools.reduce(merge, (data.get("declare", {}) for data in found.values()), BARE)
    flags = {flag for data in found.values() for flag in data.get("host", {}).get("flags", ())}
    roots = {root for data in found.values() for root in data.get("host", {}).get("grants", {})}
    assert roots == {"user-folder"}
    mended = hosts.spawn(*flags, "--cache-dir", str(tmp_path / "cache"))
    mended.initialize(manifest=app, grants={root: str(mended.folder) for root in roots})
    refused = {}
    for method in FENCED:
        try:
            mended.call(method.name, PARAMS[method.name], timeout=20)
        except RemoteError as error:
            refused[method.name] = error.kind
    # the package's own model is neither removed nor imported, the fake engine prepares nothing, and the picked file's
    # folder does not exist: all these calls got past the gate
    assert refused == {
        "host.pickFile": "StorageError",
        "models.remove": "ModelNotInstalled",
        "models.import": "InvalidParams",
        "models.prepare": "EngineUnavailable",
    }
    entries = mended.call("audit.capabilityLog")["entries"]
    assert [entry["decision"] for entry in entries] == ["allow"] * len(FENCED)


def test_leave_to_look_at_a_model_is_none_to_download_it_and_a_grant_for_one_model_loads_no_other(tmp_path):
    app = {**BARE, "capabilities": {"models": [{"id": "pocket"}]}}
    grant = authorize(Policy.build(app, None), METHODS["models.get"], AccessRequest(models=("pocket",)))
    known = load().with_cache(tmp_path)
    for op in ("download", "import"):
        work = WorkerRequest(op=op, root=str(tmp_path), entry=known.get("pocket"))
        with pytest.raises(TypeError):
            anyio.run(run_work, grant, work, lambda _: None)
    gate = Gate(known, "torch", lambda: Policy.build(app, None), lambda *_: None)
    use = ModelUse(gate, lambda: None, lambda *_: None)

    async def hold():
        other = known.get("sd3.5-medium")
        async with use.held(None, grant, other, quantization=None, precision=None, read=lambda _: None):
            pass

    with pytest.raises(TypeError):
        anyio.run(hold)
    assert list(tmp_path.iterdir()) == []
