"""Every manifest of fixtures/manifests through the real daemon: what other people write, and the answers they get."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from locara_conformance.cases import fits, folder
from locara_protocol.client import RemoteError
from locara_sidecar.capability.policy import Policy
from locara_sidecar.daemon.access import app_warnings

FOLDER = folder("manifests")


def granting(folder):
    return Policy.build(None, {"user-folder": str(folder)})


def cases(name):
    return [pytest.param(case, id=case["description"]) for case in json.loads((FOLDER / name).read_text("utf-8"))]


@pytest.mark.parametrize("case", cases("taken.json"))
def test_a_manifest_opens_the_session_and_what_nobody_knows_in_it_is_told(hosts, case):
    app = hosts.spawn().initialize(manifest=case.get("manifest"), grants=case.get("grants"))["app"]
    assert fits(case["app"], app), app
    for warning in app["warnings"]:
        assert warning["message"].endswith((".", "?"))


def test_a_manifest_that_is_wrong_or_misspelt_is_refused_by_the_members_name_and_the_session_stays_closed(hosts):
    host = hosts.spawn()
    for param in cases("refused.json"):
        (case,) = param.values
        with pytest.raises(RemoteError) as caught:
            host.initialize(manifest=case["manifest"])
        assert (caught.value.kind, caught.value.data["path"]) == ("InvalidParams", case["refused"]), case
    assert host.open()["app"]["warnings"] == []


def test_a_file_is_no_granted_folder_and_the_folder_s_place_is_not_repeated(hosts, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    host = hosts.spawn()
    (warning,) = host.initialize(grants={"app-data": str(file)})["app"]["warnings"]
    assert (warning["kind"], warning["path"]) == ("FolderMissing", "$.grants.app-data")
    assert "app-data" in warning["message"]
    assert str(tmp_path) not in warning["message"]


@pytest.mark.parametrize("declared", ["read", "write", "read-write"])
@pytest.mark.parametrize("denied", [os.R_OK, os.W_OK, os.X_OK])
def test_a_folder_that_does_not_allow_what_is_declared_is_told_before_anything_is_drawn(
    monkeypatch, tmp_path, declared, denied
):
    """A read-only drive, another user's folder."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path or not mode & denied)
    app = {"schema": "locara/v1", "name": "a", "publisher": "b", "version": "1"}
    manifest = app | {"capabilities": {"fs": {"user-folder": declared}}}
    warnings = app_warnings.useless_folders(Policy.build(manifest, {"user-folder": str(tmp_path)}))
    lost = [
        word
        for word, mode in (("saved", os.W_OK), ("read", os.R_OK))
        if {"saved": "write", "read": "read"}[word] in declared.split("-") and denied in (mode, os.X_OK)
    ]
    assert [(one.kind, one.path) for one in warnings] == [("FolderDenied", "$.grants.user-folder")] * bool(lost)
    for one in warnings:
        assert f"nothing can be {' or '.join(lost)} there" in one.message
        assert str(tmp_path) not in one.message
    assert app_warnings.useless_folders(granting(tmp_path)) == []


def test_a_folder_that_does_not_answer_delays_initialize_by_no_more_than_a_moment(monkeypatch, tmp_path):
    answers = threading.Event()
    monkeypatch.setattr(app_warnings, "_state", lambda folder: answers.wait(20) and None)
    began = time.monotonic()
    assert app_warnings.useless_folders(granting(tmp_path)) == []
    assert time.monotonic() - began < 5
    answers.set()


def test_a_manifest_file_may_begin_with_a_byte_order_mark(hosts, tmp_path):
    app = {"schema": "locara/v1", "name": "a", "publisher": "b", "version": "1", "capabilities": {"models": ["pocket"]}}
    file = Path(tmp_path) / "locara.json"
    file.write_text(json.dumps(app), encoding="utf-8-sig")
    assert hosts.spawn("--manifest", str(file)).initialize()["app"]["granted"] == ["model:pocket"]


def test_a_folder_is_not_looked_at_where_the_system_allows_no_thread(monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert app_warnings.useless_folders(granting("/nowhere/at/all")) == []
