"""Models: what is listed, loading and unloading, and what requires a flag of the host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from locara_conformance.checks import check
from locara_conformance.lab import MODEL, at, drawing, expect
from locara_conformance.outcomes import Failed

if TYPE_CHECKING:
    from locara_conformance.lab import Lab


@check("models.get", "MOD-2 MOD-20")
def _get(lab: Lab) -> None:
    peer = lab.shared()
    listed = at(peer.call("models.list"), "models.0")
    got = peer.call("models.get", {"model": MODEL})
    expect(at(listed, "id") == at(got, "id") == MODEL, "models.list and models.get describe different models")
    expect(at(got, "installed") is True, "with the fake engine every model counts as installed")
    expect(at(got, "granted") is True, "a declared model is not granted")
    defaults = at(got, "defaults")
    drawn = peer.call("image.generate", {"prompt": "a lake", "options": {"output": {"mode": "inline"}}}, timeout=40)
    for name in ("width", "height", "steps", "scheduler"):
        used = at(drawn, f"parameters.options.{name}")
        expect(used == at(defaults, name), f"a call that names none ran with {name} {used}, not the model's own")


@check("models.load", "MOD-13 MOD-24")
def _load(lab: Lab) -> None:
    peer = lab.session(env={"LOCARA_FAKE_LOAD_MS": "2000"})
    call = peer.start("models.load", {"model": MODEL}, stream=True)
    result = call.result(30)
    expect(at(result, "model") == MODEL, f"`model` is {at(result, 'model')!r}")
    expect(bool(call.frames()) and call.frames()[-1].get("end") is True, "no end frame came before the answer")
    expect(at(peer.call("ping"), "engine.model") == MODEL, "ping does not name the loaded model")
    began = time.monotonic()
    peer.start("models.load", {"model": MODEL}).result(30)
    took = time.monotonic() - began
    expect(took < 2, f"what was loaded already took {took:.1f} s, as long as loading it")
    methods = [at(one, "method") for one in at(peer.call("jobs.list"), "jobs", list)]
    expect(methods.count("models.load") == 2, f"jobs.list shows {methods}")


@check("models.unload", "MOD-15 MOD-14 MOD-26")
def _unload(lab: Lab) -> None:
    peer = lab.session()
    expect(peer.call("models.unload") == {"unloaded": False}, "it was unloaded where no engine runs")
    call = peer.start("image.generate", drawing("fake:slow=150 a lake", steps=10), stream=True)
    call.until("denoising", timeout=20)
    expect(peer.call("models.unload") == {"unloaded": False}, "it was unloaded under a running job")
    call.result(30)
    expect(peer.call("models.unload") == {"unloaded": True}, "an idle engine was not unloaded")
    expect(at(peer.call("ping"), "engine.state") == "stopped", "the engine runs after it was unloaded")
    peer.call("image.generate", drawing(), timeout=30)


@check("models.cancel-load", "MOD-13")
def _cancel_load(lab: Lab) -> None:
    peer = lab.session(env={"LOCARA_FAKE_LOAD_MS": "20000"})
    call = peer.start("models.load", {"model": MODEL}, stream=True)
    peer.wait("message of models.load", lambda one: isinstance(one, dict) and "method" in one, timeout=20)
    call.cancel()
    call.error("RequestCancelled")
    expect(at(peer.call("ping"), "engine.model") is None, "ping names a model whose loading was cancelled")


@check("models.flags", "CLI-2 CLI-7")
def _flags(lab: Lab) -> None:
    peer = lab.shared()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("models.download", {"model": MODEL}),
        ("models.prepare", {"model": MODEL, "quantization": "8bit"}),
        ("models.import", {"model": MODEL, "from": str(lab.folder())}),
        ("models.remove", {"model": MODEL, "dryRun": True}),
        ("models.gc", {"dryRun": True}),
    ]
    for method, params in calls:
        error = peer.refused("CapabilityDenied", method, params)
        expect(at(error, "data.reason") == "hostFlag", f"{method}: `data.reason` is {at(error, 'data.reason')!r}")
        expect("--allow-" in str(at(error, "data.host")), f"{method}: `data.host` does not name the flag")


@check("models.undeclared", "MOD-1 MOD-21 MOD-23")
def _undeclared(lab: Lab) -> None:
    peer = lab.shared()
    for method in ("models.get", "models.verify", "models.load"):
        error = peer.refused("CapabilityDenied", method, {"model": "sd3.5-medium"})
        expect(at(error, "data.reason") == "notDeclared", f"{method}: `data.reason` is {at(error, 'data.reason')!r}")
    peer = lab.session("--allow-downloads", "--allow-model-management", "--cache-dir", str(lab.root / "cache"))
    more: tuple[tuple[str, dict[str, Any]], ...] = (
        ("models.download", {}),
        ("models.import", {"from": str(lab.folder())}),
        ("models.prepare", {"quantization": "8bit"}),
    )
    for method, params in more:
        error = peer.refused("CapabilityDenied", method, {"model": "sd3.5-medium"} | params)
        expect(at(error, "data.reason") == "notDeclared", f"{method}: `data.reason` is {at(error, 'data.reason')!r}")


@check("models.progress", "MOD-3")
def _progress(lab: Lab) -> None:
    peer = lab.session()
    for method, phases in (("models.load", ["queued", "loading"]), ("models.verify", ["verifying"])):
        call = peer.start(method, {"model": MODEL}, stream=True)
        call.result(30)
        told = [at(one, "phase", str) for one in call.messages()]
        expect(list(dict.fromkeys(told)) == phases, f"the phases of {method} that were reported are {told}")
        last = call.messages()[-1]
        done, of = at(last, "bytes", int), at(last, "totalBytes", int)
        expect(done == of > 0, f"{method} ended at {done} of {of} bytes")


@check("models.idle-unload", "CLI-4")
def _idle(lab: Lab) -> None:
    peer = lab.session("--idle-unload", "1")
    peer.call("image.generate", drawing(), timeout=30)
    until = time.monotonic() + 20
    while at(peer.call("ping"), "engine.state") != "stopped":
        if time.monotonic() > until:
            raise Failed("an engine that is idle still runs 20 s later, with `--idle-unload 1`")
        time.sleep(0.1)
    peer.call("image.generate", drawing(), timeout=30)
