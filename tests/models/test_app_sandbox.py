"""Downloads inside an app's sandbox, on a simulated Mac."""

import errno
import socket
import sys

import pytest

from locara_sidecar.machine.macos import app_sandbox
from locara_sidecar.models.downloads import settings
from support.model_store import download, entry_for, error_of, whole
from support.played_mac import PlayedMac


@pytest.fixture
def connecting(monkeypatch):
    """Set the result of connecting; None lets it through to a port that nobody serves."""

    def play(error):
        def connect(_self, _address):
            raise OSError(error, "played")

        monkeypatch.setattr(socket.socket, "connect", connect)

    return play


@pytest.mark.parametrize(("given", "whose"), [("app-sandbox", "The app's sandbox"), ("inherited", "The sandbox that")])
def test_without_the_entitlement_a_download_is_refused_in_a_sentence_before_anything_is_asked(
    store, hub, monkeypatch, connecting, given, whose
):
    monkeypatch.setattr(app_sandbox, "given", lambda: given)
    connecting(errno.EPERM)
    error = error_of(download, store, hub, entry_for())
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert error.message.startswith(whose)
    assert "com.apple.security.network.client" in error.message
    assert error.data["entitlement"] == "com.apple.security.network.client"
    assert hub.log == []


@pytest.mark.parametrize("answer", [errno.ECONNREFUSED, errno.EINPROGRESS])
def test_with_it_a_download_goes_on(monkeypatch, connecting, answer):
    monkeypatch.setattr(app_sandbox, "given", lambda: "app-sandbox")
    connecting(answer)
    settings.require_network()


def test_outside_of_any_sandbox_nobody_looks(store, hub, monkeypatch):
    monkeypatch.setattr(app_sandbox, "has_network", lambda: False)
    download(store, hub)
    assert whole(store) == ["mine"]


def test_this_process_may_connect_and_that_is_found():
    assert app_sandbox.has_network()


def test_what_confines_a_played_mac_is_asked_of_the_kernel(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    inside, outside = PlayedMac(tmp_path, confined=True), PlayedMac(tmp_path)
    named = {"APP_SANDBOX_CONTAINER_ID": "com.example.studio"}
    assert app_sandbox.given(inside, named) == "app-sandbox"
    assert app_sandbox.given(inside, {}) == "inherited"
    assert app_sandbox.given(outside, named) is None
