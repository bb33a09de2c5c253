"""The manifest is read strictly where it grants something, and every error names the wrong member."""

from typing import Any

import jsonschema
import pytest

from locara_protocol import manifest
from locara_protocol.errors import RpcError
from locara_protocol.generation import schemas

SHA = "0123456789abcdef" * 4

REAL: dict[str, Any] = {
    "schema": "locara/v1",
    "name": "sketchpad",
    "displayName": "Sketchpad",
    "publisher": "example",
    "version": "1.2.0",
    "description": "Draws.",
    "longDescription": "Draws what you say.",
    "license": "MIT",
    "homepage": "https://example.com",
    "repository": "https://example.com/code",
    "author": {"name": "A. Person"},
    "icon": "icon.png",
    "screenshots": ["one.png"],
    "category": "graphics",
    "tags": ["images"],
    "modalities": ["text-to-image", "text-to-text"],
    "tooling": {"sidecar": True},
    "profiles": {"small": {}},
    "storage": {"quota": 1},
    "entry": "index.html",
    "build": {"command": "make"},
    "capabilities": {
        "models": ["pocket", f"sd3.5-medium@sha256:{SHA.upper()}", {"id": "other", "reason": "drafts"}],
        "fs": {
            "user-folder": "write",
            "app-data": False,
            "user-paths": {"exports": "read-write"},
            "user-selected": "read",
        },
        "net": {"allowed_hosts": ["example.com"], "allowed_ports": [443]},
        "clipboard": {"anything": ["is", "carried"]},
        "device": {"camera": True},
    },
}

NULLS = dict.fromkeys(("user-folder", "user-paths", "user-selected"))


def changed(path: str, value: Any) -> dict[str, Any]:
    fragment: Any = value
    for name in reversed(path.split("/")):
        fragment = {name: fragment}
    return manifest.merge(REAL, fragment)


def test_a_real_manifest_is_read_whole():
    parsed = manifest.parse(REAL)
    assert parsed.app_id == "example/sketchpad@1.2.0"
    assert parsed.modalities == ("text-to-image", "text-to-text")
    pinned = manifest.ModelEntry("sd3.5-medium", f"sha256:{SHA}")
    assert parsed.models == (manifest.ModelEntry("pocket"), pinned, manifest.ModelEntry("other"))
    assert parsed.folders == {"user-folder": "write", "user-paths.exports": "read-write", "user-selected": "read"}
    assert parsed.net == manifest.Network(True, ("example.com",), (443,))
    assert set(manifest.CARRIED) <= REAL.keys()
    others = {"clipboard": {"anything": ["is", "carried"]}, "device": {"camera": True}}
    assert parsed.carried == {name: REAL[name] for name in manifest.CARRIED} | {"capabilities": others}


@pytest.mark.parametrize("net", [False, True, {}, {"allowed_hosts": ["a.example"]}, {"allowed_ports": [1, 65535]}])
def test_net_is_a_word_or_lists_of_hosts_and_ports(net: Any):
    parsed = manifest.parse({**REAL, "capabilities": {"net": net}}).net
    assert parsed.allowed == (net is not False)
    assert (list(parsed.hosts), list(parsed.ports)) == (
        ([], []) if isinstance(net, bool) else (net.get("allowed_hosts", []), net.get("allowed_ports", []))
    )


@pytest.mark.parametrize("word", ["read", "write", "read-write", False])
@pytest.mark.parametrize("root", ["user-folder", "app-data", "user-paths.a"])
def test_each_root_takes_each_word(root: str, word: Any):
    kind, _, name = root.partition(".")
    parsed = manifest.parse({**REAL, "capabilities": {"fs": {kind: {name: word} if name else word}}})
    assert parsed.folders == ({} if word is False else {root: word})


@pytest.mark.parametrize("digest", ["", f"@sha256:{SHA}"])
def test_a_string_and_an_object_name_the_same_model(digest: str):
    beside = {"id": "pocket", "digest": digest[1:] or None}
    both = {"id": f"pocket{digest}", "digest": f"sha256:{SHA.upper()}" if digest else None}
    given = [f"pocket{digest}", {"id": f"pocket{digest}"}, beside, both]
    assert {*manifest.parse({**REAL, "capabilities": {"models": given}}).models} == {
        manifest.ModelEntry("pocket", digest[1:] or None)
    }


@pytest.mark.parametrize(
    ("name", "meant"), [("modls", "models"), ("model", "models"), ("Models", "models"), ("FS", "fs"), ("nets", "net")]
)
@pytest.mark.parametrize("beside", [{}, {"models": ["pocket"], "fs": {}, "net": False}])
def test_a_family_that_looks_like_one_of_ours_is_told_with_the_name_that_was_meant(name: str, meant: str, beside: Any):
    parsed = manifest.parse({**REAL, "capabilities": {**beside, name: ["sd3.5-medium"]}})
    told = [notice for notice in parsed.notices if notice.path == f"$.manifest.capabilities.{name}"]
    assert [notice.message.endswith(f"Did you mean {meant}?") for notice in told] == [True]
    assert [entry.id for entry in parsed.models] == beside.get("models", [])


@pytest.mark.parametrize("family", ["gpu", "camera", "ipc", "storage", "microphone", "x-fs", "$net"])
def test_another_family_is_carried_without_a_notice(family: str):
    capabilities = {**REAL["capabilities"], family: {"a": 1}}
    parsed = manifest.parse({**REAL, "capabilities": capabilities})
    assert parsed.notices == manifest.parse(REAL).notices


@pytest.mark.parametrize("given", [{"model": ["pocket"]}, {"pocket": True}, "pocket"])
def test_models_that_are_no_array_are_told_what_one_is(given: Any):
    with pytest.raises(RpcError, match=r'array of model ids, as in \["pocket"\]'):
        manifest.parse({**REAL, "capabilities": {"models": given}})


@pytest.mark.parametrize("name", ["sha256", "hash", "pin", "digst", "revision"])
@pytest.mark.parametrize("value", [SHA, f"sha256:{SHA}", f"SHA256-{SHA.upper()}"])
def test_a_digest_under_another_name_is_refused_and_told_how_to_pin(name: str, value: str):
    with pytest.raises(RpcError, match="Did you mean digest") as raised:
        manifest.parse({**REAL, "capabilities": {"models": [{"id": "pocket", name: value}]}})
    assert raised.value.data["path"] == f"$.manifest.capabilities.models[0].{name}"
    noted = {"id": "pocket", "reason": SHA, "$hash": value}
    (entry,) = manifest.parse({**REAL, "capabilities": {"models": [noted]}}).models
    assert entry.digest is None


def test_what_nobody_knows_is_carried_and_noticed_and_grants_nothing():
    later = {
        **changed("capabilities/fs/temp", "read-write"),
        "ui": {"theme": "dark"},
        "modalities": ["text-to-image", "text-to-text"],
    }
    parsed = manifest.parse(later)
    assert parsed.folders == manifest.parse(REAL).folders
    assert parsed.carried["ui"] == {"theme": "dark"}
    assert parsed.unread == {"$.manifest.capabilities.fs.temp": "read-write"}
    assert [(notice.kind, notice.path) for notice in parsed.notices] == [
        ("UnknownMember", "$.manifest.ui"),
        ("UnknownModality", "$.manifest.modalities[1]"),
        ("UnknownMember", "$.manifest.capabilities.fs.temp"),
    ]


def test_a_notice_has_advice_where_a_name_is_only_rather_like_one_of_ours():
    (notice, *_) = manifest.parse(changed("capabilities/fs/user-files", "write")).notices[1:]
    assert notice.path == "$.manifest.capabilities.fs.user-files"
    assert "Did you mean user-folder?" in notice.message


def test_notices_and_their_length_are_bounded():
    parsed = manifest.parse({**REAL, **{f"later-{number}-{'x' * 1000}": 1 for number in range(5000)}})
    assert len(parsed.notices) == manifest.MAX_NOTICES + 1
    assert str(5001 - manifest.MAX_NOTICES) in parsed.notices[-1].message
    assert max(len(notice.message) + len(notice.path) for notice in parsed.notices) < 500


@pytest.mark.parametrize("name", ["$schema", "$comment", "_comment", "//", "#", "x-team"])
@pytest.mark.parametrize("where", [[], ["capabilities"], ["capabilities", "fs"], ["capabilities", "net"]])
def test_notes_for_people_and_tools_are_carried_without_a_notice(where: list[str], name: str):
    noted: Any = {name: "a note"}
    for member in reversed(where):
        noted = {member: noted}
    assert manifest.parse(manifest.merge(REAL, noted)).notices == manifest.parse(REAL).notices


def test_the_least_manifest_grants_nothing():
    parsed = manifest.parse({"schema": "locara/v1", "name": "a", "publisher": "b", "version": "1"})
    assert (parsed.modalities, parsed.models, parsed.folders, parsed.net.allowed) == ((), (), {}, False)


def test_null_is_the_same_as_absent():
    nulls = changed("capabilities", {"models": None, "fs": NULLS, "net": None})
    assert manifest.parse(changed("icon", None)).carried.keys() == manifest.parse(REAL).carried.keys() - {"icon"}
    assert (manifest.parse(nulls).models, manifest.parse(nulls).folders) == ((), {})


def test_access_words_say_what_they_allow():
    parsed = manifest.parse(REAL)
    assert [parsed.allows("user-folder", word) for word in ("read", "write")] == [False, True]
    assert [parsed.allows("user-paths.exports", word) for word in ("read", "write")] == [True, True]
    assert not parsed.allows("app-data", "read")
    assert not parsed.allows("user-paths.other", "read")


WRONG: list[tuple[str, Any, str]] = [
    ("schema", "locara/v2", "schema"),
    ("schema", None, "schema"),
    ("name", None, "name"),
    ("name", "", "name"),
    ("name", "a/b", "name"),
    ("publisher", 3, "publisher"),
    ("publisher", "a@b", "publisher"),
    ("version", "1\n", "version"),
    ("version", " 1", "version"),
    ("modalities", "text-to-image", "modalities"),
    ("modalities", [7], "modalities[2]"),
    ("modalities", [""], "modalities[2]"),
    ("modalities", ["x" * 129], "modalities[2]"),
    ("capabilities", [], "capabilities"),
    ("capabilities/models", {"id": "pocket"}, "capabilities.models"),
    ("capabilities/models", [7], "capabilities.models[3]"),
    ("capabilities/models", [""], "capabilities.models[3]"),
    ("capabilities/models", ["pocket@"], "capabilities.models[3]"),
    ("capabilities/models", ["pocket@sha256:abc"], "capabilities.models[3]"),
    ("capabilities/models", [f"pocket@sha256:{SHA}0"], "capabilities.models[3]"),
    ("capabilities/models", [f"pocket@{SHA}"], "capabilities.models[3]"),
    ("capabilities/models", ["@sha256:" + SHA], "capabilities.models[3]"),
    ("capabilities/models", [{}], "capabilities.models[3].id"),
    ("capabilities/models", [{"id": "pocket@"}], "capabilities.models[3].id"),
    ("capabilities/models", [{"id": "pocket@sha256:abc"}], "capabilities.models[3].id"),
    ("capabilities/models", [{"id": f"pocket@sha256:{SHA}0"}], "capabilities.models[3].id"),
    ("capabilities/models", [{"id": "pocket", "digest": SHA}], "capabilities.models[3].digest"),
    ("capabilities/models", [{"id": "pocket", "digest": 7}], "capabilities.models[3].digest"),
    ("capabilities/models", [{"digest": f"sha256:{SHA}"}], "capabilities.models[3].id"),
    ("capabilities/fs", True, "capabilities.fs"),
    ("capabilities/fs/user-folder", True, "capabilities.fs.user-folder"),
    ("capabilities/fs/user-folder", "rw", "capabilities.fs.user-folder"),
    ("capabilities/fs/app-data", ["read"], "capabilities.fs.app-data"),
    ("capabilities/fs/user-paths", "write", "capabilities.fs.user-paths"),
    ("capabilities/fs/user-paths/exports", "all", "capabilities.fs.user-paths.exports"),
    ("capabilities/fs/user-paths/a b", "read", 'capabilities.fs.user-paths["a b"]'),
    ("capabilities/net", "yes", "capabilities.net"),
    ("capabilities/fs/user-selected", "write", "capabilities.fs.user-selected"),
    ("capabilities/fs/user-selected", True, "capabilities.fs.user-selected"),
    ("capabilities/net/allowed_hosts", [1], "capabilities.net.allowed_hosts[1]"),
    ("capabilities/net/allowed_ports", [True], "capabilities.net.allowed_ports[1]"),
    ("capabilities/net/allowed_ports", [70000], "capabilities.net.allowed_ports[1]"),
]


MISSPELT: list[tuple[str, Any, str]] = [
    ("modality", [], "modality"),
    ("capabilites", {}, "capabilites"),
    ("modalities", ["text-to-imgae"], "modalities[2]"),
    ("modalities", ["Text to image"], "modalities[2]"),
    ("modalities", ["image_to_image"], "modalities[2]"),
    ("capabilities/models", [{"id": "a", "idd": "b"}], "capabilities.models[3].idd"),
    ("capabilities/models", [{"id": "a", "sha256": SHA}], "capabilities.models[3].sha256"),
    (
        "capabilities/models",
        [{"id": f"a@sha256:{SHA}", "digest": f"sha256:{64 * '0'}"}],
        "capabilities.models[3].digest",
    ),
    ("capabilities/fs/user-floder", "write", "capabilities.fs.user-floder"),
    ("capabilities/fs/user_selected", "read", "capabilities.fs.user_selected"),
    ("capabilities/fs/AppData", "read", "capabilities.fs.AppData"),
    ("capabilities/net/allowedHosts", [], "capabilities.net.allowedHosts"),
]
"""What no schema can express: a name that looks like one of ours misspelt, or a contradiction."""


@pytest.mark.parametrize(("where", "value", "at"), [*WRONG, *MISSPELT])
def test_an_error_names_its_member(where: str, value: Any, at: str):
    with pytest.raises(RpcError) as raised:
        manifest.parse(changed(where, value))
    assert (raised.value.kind, raised.value.data["path"]) == ("InvalidParams", f"$.manifest.{at}")


def test_a_misspelt_member_is_told_what_was_meant():
    with pytest.raises(RpcError, match="Did you mean user-folder"):
        manifest.parse(changed("capabilities/fs/user-floder", "write"))


def test_merging_changes_neither_side():
    old = {"a": {"list": [1], "word": "x"}}
    new = {"a": {"list": [{"b": 2}], "word": "y", "more": {}}}
    merged = manifest.merge(old, new)
    assert merged == {"a": {"list": [1, {"b": 2}], "word": "y", "more": {}}}
    merged["a"]["list"][1]["b"] = 3
    assert old == {"a": {"list": [1], "word": "x"}}
    assert new["a"]["list"] == [{"b": 2}]


def test_the_schema_accepts_what_the_reader_accepts_and_refuses_what_it_refuses():
    validator = jsonschema.Draft202012Validator(schemas.documents()["manifest.json"])
    least = {"schema": "locara/v1", "name": "a", "publisher": "b", "version": "1"}
    nulls = changed("capabilities", {"models": None, "fs": NULLS, "net": None})
    for right in (REAL, least, nulls, changed("icon", None), changed("capabilities/fs", False)):
        manifest.parse(right)
        assert validator.is_valid(right)
    for where, value, _ in WRONG:
        assert not validator.is_valid(changed(where, value)), where
