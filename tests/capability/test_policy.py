"""A policy is checked when it is built, and two policies that grant the same are equal."""

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.policy import Policy
from support.granted_folders import manifest


@pytest.mark.parametrize(
    ("name", "folder", "path"),
    [
        ("user-folder", "relative/folder", "$.grants.user-folder"),
        ("user-folder", "", "$.grants.user-folder"),
        ("user-folder", "~/Pictures", "$.grants.user-folder"),
        ("app-data", "/a\0b", "$.grants.app-data"),
        ("app-data", "/" + "a" * 5000, "$.grants.app-data"),
        ("app-data", "/\ud800", "$.grants.app-data"),
        ("home", "/home", "$.grants.home"),
        ("user-paths", "/home", "$.grants.user-paths"),
        ("user-paths.", "/home", '$.grants["user-paths."]'),
        ("user-paths.a/b", "/home", '$.grants["user-paths.a/b"]'),
    ],
)
def test_a_bad_grant_is_named(name: str, folder: str, path: str):
    with pytest.raises(RpcError) as raised:
        Policy.build(manifest(), {name: folder})
    assert (raised.value.kind, raised.value.data["path"]) == ("InvalidParams", path)


def test_a_folder_need_not_exist_yet():
    assert Policy.build(None, {"user-folder": "/does/not/exist"}).grants.keys() == {"user-folder"}


def test_without_a_manifest_nothing_is_granted():
    policy = Policy.build(None, {"user-folder": "/tmp"})
    assert (policy.app_id, policy.granted()) == (None, [])


def test_what_is_carried_grants_nothing():
    others = {name: {"everything": True} for name in ("device", "clipboard", "shell", "model", "Fs")}
    carried = manifest(**others, net=True) | {"storage": {"fs": "write"}, "profiles": {"a": {"models": [{"id": "x"}]}}}
    plain = Policy.build(manifest(), {"user-folder": "/a"}).granted()
    assert Policy.build(carried, {"user-folder": "/a"}).granted() == plain == ["modality:text-to-image", "model:pocket"]


def test_granted_lists_what_both_sides_agreed_to():
    declared = manifest(fs={"user-folder": "write", "app-data": "read", "user-paths": {"out": "read-write"}})
    policy = Policy.build(declared, {"user-folder": "/a", "user-paths.out": "/b"})
    assert policy.app_id == "tests/app@1"
    assert policy.granted() == [
        "modality:text-to-image",
        "model:pocket",
        "fs.user-folder:write",
        "fs.user-paths.out:read-write",
    ]


def test_policies_that_grant_the_same_are_equal():
    one = Policy.build(manifest(net=False), {"user-folder": "/a/b"})
    assert one == Policy.build(manifest(net=False), {"user-folder": "/a//b/"})
    assert one != Policy.build(manifest(net=False), {"user-folder": "/a"})
    assert one != Policy.build(manifest(net=True), {"user-folder": "/a/b"})
    assert one != Policy.build({**manifest(net=False), "tags": ["new"]}, {"user-folder": "/a/b"})
