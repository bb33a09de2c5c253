"""Errors: their kinds and codes, and an engine that crashes, hangs or draws nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.lab import at, drawing, expect, manifest
from locara_protocol.errors import RETRYABLE

if TYPE_CHECKING:
    from locara_conformance.lab import Lab


@check("errors.kind", "ERR-2", watched=True)
def _kind(lab: Lab) -> None:
    peer = lab.shared()
    peer.refused("MethodNotFound", "nobody.knows.this")
    peer.refused("InvalidParams", "image.generate", {})
    peer.refused("CapabilityDenied", "models.get", {"model": "sd3.5-medium"})


@check("errors.path", "REQ-9", watched=True)
def _path(lab: Lab) -> None:
    peer = lab.shared()
    for params, path in (
        ({"prompt": "a", "options": {"steps": "4"}}, "$.options.steps"),
        ({"prompt": "a", "options": {"odd name": 1}}, '$.options["odd name"]'),
        ({}, "$.prompt"),
    ):
        error = peer.refused("InvalidParams", "image.generate", params)
        expect(at(error, "data.path") == path, f"`data.path` is {at(error, 'data.path')!r}, not {path}")


@check("errors.retryable", "ERR-27")
def _retryable(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    call.cancel()
    found = {
        "RequestCancelled": call.error("RequestCancelled"),
        "InvalidParams": peer.refused("InvalidParams", "image.generate", {}),
        "EngineCrashed": peer.refused("EngineCrashed", "image.generate", drawing("fake:crash=encoding")),
        "InvalidOutput": peer.refused("InvalidOutput", "image.generate", drawing("fake:nan")),
    }
    for kind, error in found.items():
        expect(at(error, "data.retryable") is (kind in RETRYABLE), f"`retryable` of {kind} is wrong")


@check("errors.denied", "CAP-10 ERR-9")
def _denied(lab: Lab) -> None:
    without_model = manifest()
    without_model["capabilities"]["models"] = []
    error = lab.session(opening={"manifest": without_model}).refused("CapabilityDenied", "image.generate", drawing())
    expect(at(error, "data.reason") == "notDeclared", f"`data.reason` is {at(error, 'data.reason')!r}")
    fragment = at(error, "data.declare")
    expect(at(fragment, "capabilities.models") == ["pocket"], f"`data.declare` is {fragment}")
    peer = lab.session(opening={"grants": None})
    error = peer.refused("CapabilityDenied", "image.generate", drawing(output={"mode": "save"}))
    expect(at(error, "data.reason") == "noHostGrant", f"`data.reason` is {at(error, 'data.reason')!r}")
    expect(bool(at(error, "data.host")), "`data.host` does not say what the host must supply")


@check("errors.host-flag", "CAP-10")
def _host_flag(lab: Lab) -> None:
    error = lab.shared().refused("CapabilityDenied", "models.download", {"model": "pocket"})
    expect(at(error, "data.reason") == "hostFlag", f"`data.reason` is {at(error, 'data.reason')!r}")


@check("errors.model-not-found", "ERR-11")
def _not_found(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": manifest("nobody")})
    peer.refused("ModelNotFound", "image.generate", drawing(model="nobody"))


@check("errors.crash", "FAKE-5 ERR-20 FAKE-6 FAKE-7 FAKE-8 FAKE-9")
def _crash(lab: Lab) -> None:
    peer = lab.shared()
    for word, member, value in (
        ("fake:crash=loading", "status", 70),
        ("fake:abort=encoding", "signal", "SIGABRT"),
        ("fake:segv=denoising", "signal", "SIGSEGV"),
        ("fake:kill=decoding", "signal", "SIGKILL"),
    ):
        error = peer.start("image.generate", drawing(f"{word} a lake"), stream=True).error("EngineCrashed", 30)
        phase = word.partition("=")[2]
        expect(at(error, f"data.{member}") == value, f"{word}: `data.{member}` is {at(error, f'data.{member}')!r}")
        expect(at(error, "data.phase") == phase, f"{word}: `data.phase` is {at(error, 'data.phase')!r}")
        expect(at(error, "data.images") == [], f"{word}: an unfinished image is reported")
        peer.call("image.generate", drawing(), timeout=30)


@check("errors.stall", "ERR-23 CLI-8 ERR-27")
def _stall(lab: Lab) -> None:
    peer = lab.session("--stall-timeout", "1")
    for word in ("hang", "sleep"):
        call = peer.start("image.generate", drawing(f"fake:{word}=denoising a lake", steps=3), stream=True)
        error = call.error("EngineStalled", 30)
        expect(at(error, "data.phase") == "denoising", f"`data.phase` is {at(error, 'data.phase')!r}")
        expect(at(error, "data.retryable") is True, "`retryable` of EngineStalled is not true")
        peer.call("image.generate", drawing(), timeout=30)


@check("errors.engine", "FAKE-4 ERR-7 ERR-17 ERR-26 FAKE-10 FAKE-11")
def _engine(lab: Lab) -> None:
    peer = lab.shared()
    for word, kind in (
        ("fake:nan", "InvalidOutput"),
        ("fake:oom", "InsufficientMemory"),
        ("fake:error", "InternalError"),
    ):
        peer.start("image.generate", drawing(f"{word} a lake"), stream=True).error(kind, 30)
        peer.call("image.generate", drawing(), timeout=30)


@check("errors.start", "FAKE-1 ERR-19")
def _start(lab: Lab) -> None:
    for word, member, value in (("crash", "status", 70), ("abort", "signal", "SIGABRT")):
        peer = lab.session(env={"LOCARA_FAKE_FAULTS": f"fake:{word}=start"})
        error = peer.start("image.generate", drawing(), stream=True).error("EngineUnavailable", 30)
        expect(at(error, f"data.{member}") == value, f"`data.{member}` is {at(error, f'data.{member}')!r}")
        peer.barrier()


@check("errors.queue-full", "ERR-21 CLI-9 ERR-27 LIFE-10")
def _queue_full(lab: Lab) -> None:
    peer = lab.spawn("--queue", "2")
    most = at(peer.call("initialize", lab.opening(), timeout=20), "capabilities.limits.maxQueue")
    expect(most == 2, f"`limits.maxQueue` is {most!r} with `--queue 2`")
    calls = [peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True) for _ in range(3)]
    calls[0].until("denoising", timeout=20)
    last = peer.start("image.generate", drawing(), stream=True)
    full = last.error("QueueFull")
    expect(at(full, "data.retryable") is True, "`retryable` of QueueFull is not true")
    for call in calls:
        call.cancel()
    for call in calls:
        call.error("RequestCancelled")


@check("errors.unknown-word", "FAKE-2")
def _unknown_word(lab: Lab) -> None:
    lab.shared().call("image.generate", drawing("fake:nonsense=denoising fake:crash=nowhere a lake"), timeout=30)
