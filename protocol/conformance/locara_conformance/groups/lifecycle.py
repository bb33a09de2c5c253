"""A session from ``initialize`` to ``exit``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from locara_conformance.cases import fits
from locara_conformance.checks import check
from locara_conformance.groups.replay import replay
from locara_conformance.lab import at, drawing, expect, manifest
from locara_protocol import PROTOCOL_VERSION
from locara_protocol.methods import METHODS

if TYPE_CHECKING:
    from locara_conformance.lab import Lab

LIMITS = ("maxLineBytes", "maxInlineImageBytes", "maxQueue", "maxBatch", "maxPromptBytes")


@check("lifecycle.initialize", "LIFE-1")
def _initialize(lab: Lab) -> None:
    peer = lab.spawn()
    result = peer.call("initialize", lab.opening(), timeout=max(20.0, lab.timeout))
    expect(at(result, "protocolVersion") == PROTOCOL_VERSION, "`protocolVersion` is not the one that was asked for")
    peer.barrier()


@check("lifecycle.capabilities", "LIFE-10")
def _capabilities(lab: Lab) -> None:
    result = lab.spawn().call("initialize", lab.opening(), timeout=20)
    methods = at(result, "capabilities.methods", list)
    missing = sorted(name for name in METHODS if name not in methods)
    expect(not missing, f"`capabilities.methods` lacks {', '.join(missing)}")
    for name in LIMITS:
        expect(at(result, f"capabilities.limits.{name}", int) > 0, f"the limit {name} is not above 0")
    granted = at(result, "app.granted", list)
    expect("model:pocket" in granted, f"`app.granted` lacks the declared model: {granted}")
    expect(at(result, "app.id") == "locara/conformance@1.0.0", f"`app.id` is {at(result, 'app.id')!r}")


@check("lifecycle.methods", "RPC-12")
def _methods(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": None, "grants": None})
    for name in sorted(METHODS.keys() - {"shutdown"}):
        answer = peer.start_any(name, {"no such member": 1}).answer()
        code = at(answer, "error.code")
        expect(code in (-32602, -32600), f"{name}, which it has to have, was answered with {code}")


@check("lifecycle.before-initialize", "LIFE-2 ERR-10")
def _before(lab: Lab) -> None:
    replay(lab, "lifecycle", "^before initialize|served before|OpenRPC")
    peer = lab.spawn()
    peer.notify("$/cancelRequest", {"id": 1})
    for name in sorted(METHODS.keys() - {"initialize", "ping", "rpc.discover", "shutdown"}):
        peer.refused("NotInitialized", name, {})


@check("lifecycle.exit-before-initialize", "LIFE-2")
def _exit_before(lab: Lab) -> None:
    peer = lab.spawn()
    peer.barrier()
    peer.notify("exit")
    status = peer.wait_exit(5, "exit")
    expect(status == 1, f"the status of `exit` without `shutdown` is {status}, not 1")


@check("lifecycle.again", "LIFE-3 LIFE-14 ERR-4")
def _again(lab: Lab) -> None:
    replay(lab, "lifecycle", "second initialize|failed initialize|initialized is accepted")


@check("lifecycle.versions", "LIFE-11 ERR-24")
def _versions(lab: Lab) -> None:
    replay(lab, "lifecycle", "^initialize answers|later version|null for optional")
    error = lab.spawn().refused("UnsupportedProtocolVersion", "initialize", lab.opening(protocolVersion=0))
    expect(
        PROTOCOL_VERSION in at(error, "data.supported", list),
        "`data.supported` does not have the version that is spoken",
    )


@check("lifecycle.default-deny", "CAP-1")
def _default_deny(lab: Lab) -> None:
    replay(lab, "lifecycle", "without a manifest")
    peer = lab.session(opening={"manifest": None})
    error = peer.refused("CapabilityDenied", "image.generate", drawing())
    expect(at(error, "data.reason") == "notDeclared", "`data.reason` is not notDeclared")


@check("lifecycle.manifest-typo", "CAP-8")
def _typo(lab: Lab) -> None:
    wrong = manifest() | {"modalitys": ["text-to-image"]}
    del wrong["modalities"]
    error = lab.spawn().refused("InvalidParams", "initialize", lab.opening(manifest=wrong))
    expect("modalitys" in at(error, "data.path", str), "`data.path` does not name the misspelt member")


@check("lifecycle.folder-missing", "LIFE-13")
def _folder_missing(lab: Lab) -> None:
    file = lab.folder() / "a file"
    file.write_bytes(b"")
    for missing in (lab.folder() / "not there", file):
        opening = lab.opening(grants={"user-folder": str(missing)})
        warnings = at(lab.spawn().call("initialize", opening, timeout=20), "app.warnings", list)
        expect(
            any(fits({"kind": "FolderMissing", "path": "$.grants.user-folder"}, one) for one in warnings),
            f"with {missing.name!r} granted, no FolderMissing is among the warnings: {warnings}",
        )


@check("lifecycle.ping", "LIFE-4")
def _ping(lab: Lab) -> None:
    peer = lab.session()
    state = at(peer.call("ping"), "engine.state")
    expect(state in ("stopped", "starting", "idle"), f"with no job the engine is {state}")
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    call.until("denoising", timeout=20)
    pong = peer.call("ping")
    expect(at(pong, "engine.state") == "busy", f"in the middle of a job the engine is {at(pong, 'engine.state')}")
    expect(at(pong, "jobs.running") == 1, f"{at(pong, 'jobs.running')} jobs run instead of 1")
    call.cancel()
    call.error("RequestCancelled")


@check("lifecycle.discover", "LIFE-5", level="MUST")
def _discover(lab: Lab) -> None:
    document = lab.shared().call("rpc.discover")
    told = {at(one, "name", str) for one in at(document, "methods", list)}
    missing = sorted(METHODS.keys() - told)
    expect(not missing, f"the OpenRPC document lacks {', '.join(missing)}")


@check("lifecycle.token", "LIFE-9")
def _token(lab: Lab) -> None:
    peer = lab.spawn()
    for token in ("", "two words", "two\nlines", "tóken"):
        error = peer.refused("InvalidParams", "initialize", lab.opening(auth={"token": token}))
        expect(at(error, "data.path") == "$.auth.token", f"`data.path` for {token!r} is {at(error, 'data.path')!r}")
    peer.call("initialize", lab.opening(auth={"token": "a-token"}), timeout=20)


@check("lifecycle.sandbox", "CAP-14 LIFE-17")
def _sandbox(lab: Lab) -> None:
    peer = lab.session()
    told = at(peer.call("system.info"), "sandbox")
    expect(at(told, "enforced") is False, "confinement is reported before an engine has started")
    expect(bool(at(told, "kind")), "`kind` does not say what will be tried")
    peer.call("image.generate", drawing(), timeout=30)
    told = at(peer.call("system.info"), "sandbox")
    if at(told, "enforced"):
        details = at(told, "details", dict)
        essential = [name for name in ("readOutside", "writeOutside", "tcp", "udp") if details.get(name) != "blocked"]
        open_ones = [name for name, outcome in details.items() if outcome == "open"]
        expect(not essential + open_ones, f"`enforced` is true and not blocked: {', '.join(essential + open_ones)}")


@check("lifecycle.open-size", "REQ-4")
def _open_size(lab: Lab) -> None:
    peer = lab.spawn()
    wide = manifest() | {"$notes": "x" * (1 << 20)}
    error = peer.refused("InvalidParams", "initialize", lab.opening(manifest=wide))
    expect(at(error, "data.path", str).startswith("$.manifest"), f"`data.path` is {at(error, 'data.path')!r}")
    many = {f"user-paths.p{number}": str(lab.folder()) for number in range((1 << 20) // 32)}
    error = peer.refused("InvalidParams", "initialize", lab.opening(grants=many))
    expect(at(error, "data.path", str).startswith("$.grants"), f"`data.path` is {at(error, 'data.path')!r}")
    half = manifest() | {"$notes": "x" * (1 << 19)}
    peer.call("initialize", lab.opening(manifest=half), timeout=20)


@check("lifecycle.fixed", "CLI-5 CLI-6")
def _fixed(lab: Lab) -> None:
    file = lab.root / "locara.json"
    file.write_text(json.dumps(manifest()))
    flags = ("--manifest", str(file), "--grant", f"user-folder={lab.folder()}")
    bare: dict[str, Any] = dict.fromkeys(("manifest", "grants"))
    for more in (bare, {}):
        app = at(lab.spawn(*flags).call("initialize", lab.opening(**more), timeout=20), "app")
        granted = at(app, "granted", list)
        expect("model:pocket" in granted, f"what the command line fixes is not granted: {granted}")
    peer = lab.spawn(*flags)
    wider, narrower = manifest("pocket", "sd3.5-medium"), manifest() | {"modalities": ["text-to-image"]}
    others = [({"manifest": other}, "$.manifest") for other in (wider, narrower)]
    others += [({"grants": {"user-folder": folder}}, "$.grants") for folder in ("/", str(lab.root))]
    for more, path in others:
        error = peer.refused("InvalidParams", "initialize", lab.opening(**more))
        expect(at(error, "data.path") == path, f"`data.path` is {at(error, 'data.path')!r}, not {path}")
