"""The gate's rule for image.edit: the modality depends on the model, and each file read or saved needs a folder."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.errors import RpcError
from locara_protocol.manifest import merge
from locara_protocol.methods import METHODS, Method
from locara_sidecar.capability.audit import AuditLog
from locara_sidecar.capability.authorize import AccessRequest, Grant, Picked, Source, authorize
from locara_sidecar.capability.policy import Policy
from support.granted_folders import manifest

EDITING = [method for method in METHODS.values() if method.need == "edit"]
OUT, IMAGE, MASK = "user-folder", "user-paths.in", "user-paths.masks"
ACCESS = {"write": (OUT, "write"), "read image": (IMAGE, "read"), "read mask": (MASK, "read")}
GRANTS = {f"grant {root}": root for root in (OUT, IMAGE, MASK)}
PARTS = ("modality", "model", *ACCESS, *GRANTS)
CASES = [set(parts) for size in range(len(PARTS) + 1) for parts in itertools.combinations(PARTS, size)]
SOURCES = (Source(IMAGE, "$.image.root"), Source(MASK, "$.mask.root"))


def declared(parts: set[str]) -> tuple[dict[str, Any], dict[str, str]]:
    app = manifest(models=[{"id": "pocket"}] if "model" in parts else [])
    app["modalities"] = ["image-to-image"] if "modality" in parts else ["text-to-image"]
    fs: dict[str, Any] = {}
    for part, (root, word) in ACCESS.items():
        if part in parts:
            kind, _, name = root.partition(".")
            fs = merge(fs, {kind: {name: word}} if name else {kind: word})
    app["capabilities"]["fs"] = fs
    return app, {root: f"/granted/{root}" for part, root in GRANTS.items() if part in parts}


def outcome(policy: Policy, wanted: AccessRequest, method: Method) -> Grant | RpcError:
    try:
        return authorize(policy, method, wanted)
    except RpcError as error:
        return error


@pytest.mark.parametrize("method", EDITING, ids=lambda method: method.name)
@pytest.mark.parametrize("sources", [(), SOURCES[:1], SOURCES], ids=["inline", "image", "image and mask"])
@pytest.mark.parametrize("root", [None, OUT])
def test_every_missing_part_is_denied_named_and_mended_by_what_the_denial_says(
    method: Method, sources: tuple[Source, ...], root: str | None
):
    log = AuditLog()
    wanted = AccessRequest(models=("pocket",), root=root, sources=sources)
    used = {name for name, _ in wanted.folders}
    needed = {"modality", "model"} | {part for part, (name, _) in ACCESS.items() if name in used}
    granted = {part for part, name in GRANTS.items() if name in used}
    for parts in CASES:
        app, grants = declared(parts)
        decision = outcome(Policy.build(app, grants), wanted, method)
        entry = log.record_decision(method=method.name, wanted=wanted, decision=decision, request_id=1)
        assert (entry.decision == "allow") == isinstance(decision, Grant) == ((needed | granted) <= parts), parts
        if isinstance(decision, Grant):
            folders = [(source.root, source.access, str(source.folder)) for source in decision.sources]
            assert folders == [(source.root, "read", f"/granted/{source.root}") for source in sources]
            assert (decision.folder and (decision.folder.root, decision.folder.access)) == (root and (root, "write"))
            continue
        data = decision.data
        assert (decision.kind, data["reason"]) == (
            "CapabilityDenied",
            "notDeclared" if needed - parts else "noHostGrant",
        )
        words = {"modality": "the modality image-to-image", "model": "the model pocket"}
        words |= {part: f"{word} access to {name}" for part, (name, word) in ACCESS.items()}
        for part in needed & words.keys():
            assert (words[part] in decision.message) == (part not in parts)
        assert set(data.get("host", {}).get("grants", {})) == {GRANTS[part] for part in granted - parts}
        mended = merge(app, data.get("declare", {}))
        supplied = grants | dict.fromkeys(data.get("host", {}).get("grants", {}), "/somewhere")
        assert isinstance(outcome(Policy.build(mended, supplied), wanted, method), Grant), (parts, data)


EDIT = METHODS["image.edit"]
BOTH = {"instructed": "image-text-to-image", "pocket": "image-to-image"}


def test_reading_and_writing_in_one_root_are_declared_by_one_word():
    wanted = AccessRequest(models=("pocket",), root=OUT, sources=(Source(OUT, "$.image.root"),))
    denied = outcome(Policy.build(None, None), wanted, EDIT)
    assert isinstance(denied, RpcError)
    assert denied.data["declare"] == {
        "modalities": ["image-to-image"],
        "capabilities": {"models": ["pocket"], "fs": {OUT: "read-write"}},
    }
    for there in ("read", "write"):
        app = manifest(fs={OUT: there})
        app["modalities"] = ["image-to-image"]
        denied = outcome(Policy.build(app, {OUT: "/a"}), wanted, EDIT)
        assert isinstance(denied, RpcError)
        assert denied.data["declare"] == {"capabilities": {"fs": {OUT: "read-write"}}}
        assert ("read access" in denied.message, "write access" in denied.message) == (
            there == "write",
            there == "read",
        )


def test_writing_alone_gives_no_leave_to_read_and_reading_none_to_write():
    app = manifest(fs={OUT: "write"})
    app["modalities"] = ["image-to-image"]
    policy = Policy.build(app, {OUT: "/a"})
    assert isinstance(outcome(policy, AccessRequest(models=("pocket",), root=OUT), EDIT), Grant)
    assert isinstance(outcome(policy, AccessRequest(models=("pocket",), sources=(Source(OUT, "$.x"),)), EDIT), RpcError)


@pytest.mark.parametrize(
    ("modalities", "models", "granted"),
    [
        (["image-to-image"], ["instructed", "pocket"], ("pocket",)),
        (["image-text-to-image"], ["instructed", "pocket"], ("instructed",)),
        (["image-text-to-image", "image-to-image"], ["pocket", "instructed"], ("instructed", "pocket")),
        (["image-to-image"], ["instructed"], None),
        (["text-to-image"], ["instructed", "pocket"], None),
    ],
)
def test_a_candidate_counts_only_with_its_own_modality(modalities: Any, models: Any, granted: Any):
    app = manifest(models=[{"id": model} for model in models])
    app["modalities"] = modalities
    wanted = AccessRequest(models=("instructed", "pocket"), modalities=BOTH, installed=("pocket",))
    decision = outcome(Policy.build(app, None), wanted, EDIT)
    if granted is not None:
        assert isinstance(decision, Grant)
        assert decision.models == granted
        return
    assert isinstance(decision, RpcError)
    proposed = "pocket" if "pocket" in models else "instructed"
    assert decision.data["declare"] == {"modalities": [BOTH[proposed]]}
    repeated = outcome(Policy.build(merge(app, decision.data["declare"]), None), wanted, EDIT)
    assert isinstance(repeated, Grant)
    assert repeated.models == (proposed,)


@pytest.mark.parametrize("at", ["$.image.root", "$.mask.root"])
def test_a_root_that_no_manifest_could_name_is_a_bad_parameter(at: str):
    wanted = AccessRequest(models=("pocket",), sources=(Source("home", at),))
    error = outcome(Policy.build(manifest(), None), wanted, EDIT)
    assert isinstance(error, RpcError)
    assert (error.kind, error.data["path"]) == ("InvalidParams", at)


def test_a_read_grant_opens_nothing_for_writing(tmp_path: Path):
    from locara_sidecar.capability.files.confined import ConfinedFolder

    app = manifest(fs={OUT: "read-write"})
    app["modalities"] = ["image-to-image"]
    policy = Policy.build(app, {OUT: str(tmp_path)})
    grant = authorize(policy, EDIT, AccessRequest(models=("pocket",), sources=(Source(OUT, "$.image.root"),)))
    with pytest.raises(TypeError):
        ConfinedFolder(grant.sources[0])


@pytest.mark.parametrize("place", range(4))
def test_a_denial_names_the_first_of_many_files_that_may_not_be_read(place: int):
    app = manifest(models=[{"id": "pocket"}])
    app["modalities"] = ["image-to-image"]
    app["capabilities"]["fs"] = {"user-folder": "read-write", "user-paths": {"given": "read"}}
    roots = ["user-folder"] * 4
    for root, grants, reason in (
        ("app-data", {"user-folder": "/a", "app-data": "/b"}, "notDeclared"),
        ("user-paths.given", {"user-folder": "/a"}, "noHostGrant"),
    ):
        mixed = [root if at >= place else one for at, one in enumerate(roots)]
        sources = tuple(Source(one, f"$.images[{at}].root") for at, one in enumerate(mixed))
        denied = outcome(Policy.build(app, grants), AccessRequest(models=("pocket",), sources=sources), EDIT)
        assert isinstance(denied, RpcError)
        told = (denied.data["reason"], denied.data["resource"], denied.data["path"])
        assert told == (reason, root, f"$.images[{place}].root")


def test_the_path_of_a_denial_is_left_out_where_more_is_missing_than_a_file():
    app = manifest(models=[])
    wanted = AccessRequest(models=("pocket",), sources=(Source("app-data", "$.images[0].root"),))
    denied = outcome(Policy.build(app, {}), wanted, EDIT)
    assert isinstance(denied, RpcError)
    assert "path" not in denied.data


@pytest.mark.parametrize(
    ("fs", "grants", "told"),
    [
        ({}, {OUT: "/a"}, ("notDeclared", "$.image.root")),
        ({OUT: "write"}, {OUT: "/a"}, ("notDeclared", "$.image.root")),
        ({OUT: "read"}, {OUT: "/a"}, ("notDeclared", None)),
        ({OUT: "read-write"}, {}, ("noHostGrant", "$.image.root")),
    ],
)
def test_a_denial_names_the_file_also_if_the_images_are_saved_in_its_folder(
    fs: dict[str, Any], grants: dict[str, str], told: tuple[str, str | None]
):
    app = manifest(models=[{"id": "pocket"}])
    app["modalities"] = ["image-to-image"]
    app["capabilities"]["fs"] = fs
    wanted = AccessRequest(models=("pocket",), root=OUT, sources=(Source(OUT, "$.image.root"),))
    denied = outcome(Policy.build(app, grants), wanted, EDIT)
    assert isinstance(denied, RpcError)
    assert (denied.data["reason"], denied.data.get("path")) == told


@pytest.mark.parametrize(("selected", "path"), [(False, "$.image.handle"), ("read", None)])
def test_a_denial_names_the_picked_file_also_if_another_is_picked_for_saving(selected: Any, path: str | None):
    app = manifest(models=[{"id": "pocket"}])
    app["modalities"] = ["image-to-image"]
    app["capabilities"]["fs"] = {"user-selected": selected}
    picked = (Picked("write", "b.png"), Picked("read", "a.png", "$.image.handle"))
    denied = outcome(Policy.build(app, {}), AccessRequest(models=("pocket",), picked=picked), EDIT)
    assert isinstance(denied, RpcError)
    assert (denied.data["resource"], denied.data.get("path")) == ("user-selected", path)
