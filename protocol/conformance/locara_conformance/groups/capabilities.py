"""What an app may do: real-world manifests, what is denied, what would grant it, and the record of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from locara_conformance.cases import difference, fits, manifests, shorten
from locara_conformance.checks import check
from locara_conformance.lab import PROMPT, at, content, decoded, drawing, expect, manifest
from locara_conformance.outcomes import Failed

if TYPE_CHECKING:
    from locara_conformance.lab import Lab

BARE: dict[str, Any] = {"schema": "locara/v1", "name": "bare", "publisher": "locara", "version": "1.0.0"}


@check("capabilities.taken", "CAP-7 LIFE-12 CAP-9")
def _taken(lab: Lab) -> None:
    wrong: list[str] = []
    for case in manifests("taken"):
        params = {name: case[name] for name in ("manifest", "grants") if name in case}
        opening = {name: value for name, value in lab.opening().items() if name not in ("manifest", "grants")}
        app = at(lab.spawn().start_any("initialize", opening | params).result(20), "app")
        if not fits(case["app"], app):
            where = difference(case["app"], app, "$.app")
            wrong.append(f"{case['description']}: {where}; {shorten(app)} instead of {shorten(case['app'])}")
    expect(not wrong, lambda: "; ".join(wrong))


@check("capabilities.refused", "CAP-8")
def _refused(lab: Lab) -> None:
    peer = lab.spawn()
    wrong: list[str] = []
    for case in manifests("refused"):
        answer = peer.start_any("initialize", lab.opening(manifest=case["manifest"])).answer(20)
        due = {"error": {"code": -32602, "data": {"path": case["refused"]}}}
        if not fits(due, answer):
            wrong.append(f"{case['description']}: {difference(due, answer)}; {shorten(answer)}")
    expect(not wrong, lambda: "; ".join(wrong))


@check("capabilities.declare", "CAP-10")
def _declare(lab: Lab) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("image.generate", drawing()),
        ("image.generate", drawing(output={"mode": "save"})),
        ("models.get", {"model": "pocket"}),
    ]
    for method, params in calls:
        error = lab.session(opening={"manifest": BARE}).refused("CapabilityDenied", method, params)
        fragment = at(error, "data.declare")
        granted = merged(BARE, fragment)
        answer = lab.session(opening={"manifest": granted}).start_any(method, params).answer(30)
        expect("result" in answer, f"the fragment {shorten(fragment)} does not grant {method}: {shorten(answer)}")


def merged(given: Any, fragment: Any) -> Any:
    """Merge a fragment into a manifest: objects member by member, arrays concatenated."""
    if isinstance(given, dict) and isinstance(fragment, dict):
        one, other = cast("dict[str, Any]", given), cast("dict[str, Any]", fragment)
        return one | {name: merged(one[name], value) if name in one else value for name, value in other.items()}
    if isinstance(given, list) and isinstance(fragment, list):
        return [*cast("list[Any]", given), *cast("list[Any]", fragment)]
    return fragment


@check("capabilities.pinned", "CAP-3 CAP-4")
def _pinned(lab: Lab) -> None:
    digest = f"sha256:{'0' * 64}"
    for model in (f"pocket@{digest}", {"id": "pocket", "digest": digest}):
        pinned = BARE | {"modalities": ["text-to-image"], "capabilities": {"models": [model]}}
        error = lab.session(opening={"manifest": pinned}).refused("CapabilityDenied", "image.generate", drawing())
        expect(at(error, "data.reason") == "digestMismatch", f"`data.reason` is {at(error, 'data.reason')!r}")
    right = at(lab.shared().call("models.verify", {"model": "pocket"}, timeout=30), "digest", str)
    wrong = f"pocket@{digest}"
    for models, granted in (([wrong, "pocket"], False), ([wrong, f"pocket@{right}"], True)):
        pinned = BARE | {"modalities": ["text-to-image"], "capabilities": {"models": models}}
        answer = lab.session(opening={"manifest": pinned}).start_any("image.generate", drawing()).answer(30)
        expect(("result" in answer) is granted, f"with the models {models} the answer is {shorten(answer)}")


@check("capabilities.models", "MOD-1")
def _models(lab: Lab) -> None:
    told = [at(one, "id") for one in at(lab.shared().call("models.list"), "models", list)]
    expect(told == ["pocket"], f"models.list shows {told} to an app that declares pocket")


@check("capabilities.read-only", "CAP-5")
def _read_only(lab: Lab) -> None:
    reading = BARE | {
        "modalities": ["text-to-image", "image-to-image"],
        "capabilities": {"models": ["pocket"], "fs": {"user-folder": "read"}},
    }
    peer = lab.session(opening={"manifest": reading})
    peer.refused("CapabilityDenied", "image.generate", drawing(output={"mode": "save"}))
    expect(not list(lab.folder().iterdir()), "a file was written with read-only access")
    picture = decoded(peer.call("image.generate", drawing(), timeout=30), "images.0.data")
    (lab.folder() / "a.png").write_bytes(picture)
    edit = {"prompt": PROMPT, "image": {"root": "user-folder", "path": "a.png"}}
    peer.call("image.edit", edit | {"options": {"output": {"mode": "inline"}}}, timeout=30)
    writing = {"models": ["pocket"], "fs": {"user-folder": "write"}}
    peer = lab.session(opening={"manifest": reading | {"capabilities": writing}})
    peer.refused("CapabilityDenied", "image.edit", edit)
    grants = {root: str(lab.folder()) for root in ("app-data", "user-paths.exports")}
    for root, fs in (("app-data", {"app-data": "read"}), ("user-paths.exports", {"user-paths": {"exports": "read"}})):
        declared = reading | {"capabilities": {"models": ["pocket"], "fs": fs}}
        peer = lab.session(opening={"manifest": declared, "grants": {root: grants[root]}})
        peer.refused("CapabilityDenied", "image.generate", drawing(output={"mode": "save", "root": root}))
        from_there = edit | {"image": {"root": root, "path": "a.png"}, "options": {"output": {"mode": "inline"}}}
        peer.call("image.edit", from_there, timeout=30)


@check("audit.log", "CAP-11 LIFE-23")
def _log(lab: Lab) -> None:
    peer = lab.session()
    allowed = peer.start("image.generate", drawing())
    allowed.result(30)
    denied = peer.start("models.get", {"model": "sd3.5-medium"})
    denied.error("CapabilityDenied")
    entries = at(peer.call("audit.capabilityLog"), "entries", list)
    expect([at(one, "seq") for one in entries] == list(range(1, len(entries) + 1)), "`seq` has holes")
    told = [(at(one, "requestId"), at(one, "decision")) for one in entries]
    for due in ((allowed.id, "allow"), (denied.id, "deny")):
        expect(due in told, f"the record lacks {due}: {sorted(told, key=str)}")
    expect(all(str(at(one, "time")).endswith("Z") for one in entries), "a time is not UTC")
    after = at(peer.call("audit.capabilityLog", {"after": 1, "limit": 1}), "entries", list)
    expect([at(one, "seq") for one in after] == [2], f"the first entry after 1 is {shorten(after)}")
    for limit in (0, 1001):
        error = peer.refused("InvalidParams", "audit.capabilityLog", {"limit": limit})
        expect(at(error, "data.path") == "$.limit", f"`data.path` of {limit} is {at(error, 'data.path')!r}")


@check("audit.private", "CAP-12")
def _private(lab: Lab) -> None:
    peer = lab.shared()
    peer.call("image.generate", drawing("zanzibar marzipan"), timeout=30)
    text = shorten(peer.call("audit.capabilityLog")) + str(peer.call("audit.capabilityLog"))
    if "zanzibar" in text:
        raise Failed("the prompt is in the record of decisions")


@check("capabilities.modality", "CAP-2")
def _modality(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": manifest() | {"modalities": ["image-to-image"]}})
    error = peer.refused("CapabilityDenied", "image.generate", drawing())
    expect(at(error, "data.reason") == "notDeclared", f"`data.reason` is {at(error, 'data.reason')!r}")
    peer = lab.session(opening={"manifest": manifest() | {"modalities": ["text-to-image"]}})
    data = at(peer.call("image.generate", drawing(), timeout=30), "images.0.data", str)
    edit = {"prompt": PROMPT, "image": {"data": data, "mimeType": "image/png"}, "options": {"model": "pocket"}}
    peer.refused("CapabilityDenied", "image.edit", edit)


@check("audit.file", "CAP-13")
def _file(lab: Lab) -> None:
    folder = lab.root / "app-data"
    folder.mkdir(exist_ok=True)
    grants = {"user-folder": str(lab.folder()), "app-data": str(folder)}
    manifested = manifest(fs={"user-folder": "read-write", "app-data": "write"})
    file = folder / "capability-log.jsonl"
    lab.session(opening={"manifest": manifested, "grants": grants}).call("image.generate", drawing(), timeout=30)
    expect(b'"decision"' in content(file), "no decision was written to the app's folder")
    file.unlink()
    file.mkdir()
    lab.session(opening={"manifest": manifested, "grants": grants}).call("image.generate", drawing(), timeout=30)
    file.rmdir()
