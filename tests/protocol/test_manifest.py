"""The manifest is read strictly where it grants something, and every error names the member at fault."""

from typing import Any

import jsonschema
import pytest

from locara_protocol import manifest, schemas
from locara_protocol.errors import RpcError

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
        "models": [{"id": "pocket"}, {"id": f"sd3.5-medium@sha256:{SHA.upper()}"}],
        "fs": {"user-folder": "write", "app-data": False, "user-paths": {"exports": "read-write"}},
        "net": {"allowed_hosts": ["example.com"], "allowed_ports": [443]},
        "clipboard": {"anything": ["is", "carried"]},
        "device": {"camera": True},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    fragment: Any = value
    for name in reversed(path.split("/")):
        fragment = {name: fragment}
    return manifest.merge(REAL, fragment)


def test_a_real_manifest_is_read_whole():
    parsed = manifest.parse(REAL)
    assert parsed.app_id == "example/sketchpad@1.2.0"
    assert parsed.modalities == ("text-to-image", "text-to-text")
    assert parsed.models == (manifest.ModelEntry("pocket"), manifest.ModelEntry("sd3.5-medium", f"sha256:{SHA}"))
    assert parsed.folders == {"user-folder": "write", "user-paths.exports": "read-write"}
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


def test_the_least_manifest_grants_nothing():
    parsed = manifest.parse({"schema": "locara/v1", "name": "a", "publisher": "b", "version": "1"})
    assert (parsed.modalities, parsed.models, parsed.folders, parsed.net.allowed) == ((), (), {}, False)


def test_null_is_the_same_as_absent():
    nulls = changed("capabilities", {"models": None, "fs": {"user-folder": None, "user-paths": None}, "net": None})
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
    ("modality", [], "modality"),
    ("capabilites", {}, "capabilites"),
    ("modalities", "text-to-image", "modalities"),
    ("modalities", [7], "modalities[2]"),
    ("modalities", ["Text to image"], "modalities[2]"),
    ("capabilities", [], "capabilities"),
    ("capabilities/models", {"id": "pocket"}, "capabilities.models"),
    ("capabilities/models", ["pocket"], "capabilities.models[2]"),
    ("capabilities/models", [{}], "capabilities.models[2].id"),
    ("capabilities/models", [{"id": "pocket@"}], "capabilities.models[2].id"),
    ("capabilities/models", [{"id": "pocket@sha256:abc"}], "capabilities.models[2].id"),
    ("capabilities/models", [{"id": f"pocket@sha256:{SHA}0"}], "capabilities.models[2].id"),
    ("capabilities/models", [{"id": "a", "idd": "b"}], "capabilities.models[2].idd"),
    ("capabilities/fs", True, "capabilities.fs"),
    ("capabilities/fs/user-floder", "write", "capabilities.fs.user-floder"),
    ("capabilities/fs/user-folder", True, "capabilities.fs.user-folder"),
    ("capabilities/fs/user-folder", "rw", "capabilities.fs.user-folder"),
    ("capabilities/fs/app-data", ["read"], "capabilities.fs.app-data"),
    ("capabilities/fs/user-paths", "write", "capabilities.fs.user-paths"),
    ("capabilities/fs/user-paths/exports", "all", "capabilities.fs.user-paths.exports"),
    ("capabilities/fs/user-paths/a b", "read", 'capabilities.fs.user-paths["a b"]'),
    ("capabilities/net", "yes", "capabilities.net"),
    ("capabilities/net/allowedHosts", [], "capabilities.net.allowedHosts"),
    ("capabilities/net/allowed_hosts", [1], "capabilities.net.allowed_hosts[1]"),
    ("capabilities/net/allowed_ports", [True], "capabilities.net.allowed_ports[1]"),
    ("capabilities/net/allowed_ports", [70000], "capabilities.net.allowed_ports[1]"),
]


@pytest.mark.parametrize(("where", "value", "at"), WRONG)
def test_an_error_names_its_member(where: str, value: Any, at: str):
    with pytest.raises(RpcError) as raised:
        manifest.parse(changed(where, value))
    assert (raised.value.kind, raised.value.data["path"]) == ("InvalidParams", f"$.manifest.{at}")


def test_a_misspelt_member_is_told_what_was_meant():
    with pytest.raises(RpcError, match="Was user-folder meant"):
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
    nulls = changed("capabilities", {"models": None, "fs": {"user-folder": None, "user-paths": None}, "net": None})
    for right in (REAL, least, nulls, changed("icon", None), changed("capabilities/fs", False)):
        manifest.parse(right)
        assert validator.is_valid(right)
    for where, value, _ in WRONG:
        assert not validator.is_valid(changed(where, value)), where
