"""Wrong settings, a wrong token or a wrong server are reported at once and by name, never as our own error."""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_protocol.messages import InitializeParams
from locara_sidecar.daemon.session import Session
from locara_sidecar.models import worker
from locara_sidecar.models.downloads import lookup, settings
from locara_sidecar.models.downloads.hub import TransientError, classify
from locara_sidecar.models.downloads.transfer import Transfer
from support.model_store import download, entry_for, error_of, whole

NAMES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    "SSLKEYLOGFILE",
    *("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_USER_AGENT_ORIGIN", "HF_HUB_DISABLE_TELEMETRY"),
)


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    """Remove the settings of whoever runs the tests."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def ask(store, token=None):
    """Ask like the daemon and the command line; the answer must come at once."""
    began = time.monotonic()
    work = worker.WorkerRequest(op="download", root=str(store.root), entry=entry_for(), token=token)
    error = error_of(worker.perform, work, lambda _: None, lambda _: None)
    assert time.monotonic() - began < 5
    return error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks4://127.0.0.1:1"),
        ("all_proxy", "ftp://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://127.0.0.1:port"),
        ("HTTPS_PROXY", "127.0.0.1:99999"),
        ("HTTP_PROXY", "http://"),
        ("HTTP_PROXY", "://proxy"),
        ("https_proxy", "proxy name:80"),
        ("HTTPS_PROXY", "http://user:secret@127.0.0.1:port"),
        ("HF_TOKEN", "hf_größe"),
        ("HF_TOKEN", "hf_a b"),
        ("HF_TOKEN", "hf_a\nhf_b"),
        ("HUGGING_FACE_HUB_TOKEN", "hf_“quoted”"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "30s"),
        ("HF_HUB_ETAG_TIMEOUT", "ten"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
        ("HF_HUB_USER_AGENT_ORIGIN", "größe"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_DIR", "/no/such/folder"),
        ("SSLKEYLOGFILE", "/no/such/folder/keys"),
        ("HF_ENDPOINT", "hub.example"),
        ("HF_ENDPOINT", "https://"),
        ("HF_ENDPOINT", "https://hub.example:port"),
        ("HF_ENDPOINT", "https://hub example"),
        ("HF_ENDPOINT", "ftp://hub.example"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_at_once(store, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    error = ask(store)
    assert (error.kind, error.retryable, error.data["setting"]) == ("DownloadFailed", False, name)
    assert error.message.startswith(f"{name} ")
    assert "secret" not in error.message
    assert " ," not in error.message  # nothing is named that is empty


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_socks_proxy_is_named_with_what_it_needs(store, monkeypatch, scheme):
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:1")
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    error = ask(store)
    assert (error.kind, error.retryable, error.data["setting"]) == ("DownloadFailed", False, "ALL_PROXY")
    assert "socksio" in error.message


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbfhf_a", "hf_a\n".encode("utf-16"), "hf_a".encode("utf-16-le"), b"\x80\x81", b"hf_a\nhf_b\n", None],
    ids=["mark", "utf-16", "utf-16-le", "binary", "two", "folder"],
)
@pytest.mark.parametrize("name", ["HF_TOKEN_PATH", "HF_HOME"])
def test_a_token_file_that_holds_no_token_is_named(store, tmp_path, monkeypatch, name, data):
    path = tmp_path / "place" / "token"
    path.parent.mkdir()
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)
    monkeypatch.setenv(name, str(path if name == "HF_TOKEN_PATH" else path.parent))
    error = ask(store)
    assert (error.kind, error.retryable, error.data["setting"]) == ("DownloadFailed", False, name)
    assert str(path) in error.message


@pytest.mark.parametrize("token", ["", "hf_a\n", "hf_a b", "hf_größe", "hf_a\0"])
def test_a_token_of_the_callers_that_is_none_is_a_bad_parameter(store, token):
    error = ask(store, token)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.auth.token")
    assert token.strip() not in error.message or not token.strip()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NO_PROXY", "::1,fe80::/10,10.0.0.0/8,*.local,.local, a b,[::1"),
        ("NO_PROXY", "*"),
        ("HTTPS_PROXY", ""),
        ("HTTPS_PROXY", "http://user:pass@127.0.0.1:8080"),
        ("https_proxy", "127.0.0.1:8080"),
        ("HTTPS_PROXY", "http://[::1]:8080/"),
        ("HF_TOKEN", "hf_a\r\n"),
        ("HF_TOKEN", ""),
        ("SSL_CERT_FILE", " "),
        ("HF_HUB_DOWNLOAD_TIMEOUT", ""),
        ("HF_ENDPOINT", ""),
        ("HF_ENDPOINT", "http://127.0.0.1:1/"),
        ("REQUESTS_CA_BUNDLE", "/no/such/file"),
    ],
)
def test_what_can_be_used_or_is_empty_is_let_be(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    settings.check()


def test_keys_are_written_where_they_can_be(monkeypatch, tmp_path):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    settings.check()


def test_a_token_file_with_a_line_end_is_a_token(tmp_path, monkeypatch):
    (tmp_path / "token").write_bytes(b"hf_a\r\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    settings.check()


def test_who_asks_for_no_token_of_the_users_is_not_told_of_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "größe")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")
    settings.check()


# --- what answers is no hub ----------------------------------------------------------------------


class _Page(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        pass


@pytest.fixture
def page():
    """Answer every request with one body; return the server's address and a function that sets the body."""
    handler = type("Page", (_Page,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.say = lambda body: setattr(handler, "body", body)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SHA = "5ba5e1e5" * 5
BODIES = [
    b"<html>Please sign in</html>",
    b"",
    b"null",
    b'["x"]',
    b'"x"',
    b"{}",
    b'{"id": "org/mine"}',
    b"\xff\xfe",
    json.dumps({"id": "org/mine", "sha": SHA, "siblings": [None]}).encode(),
    json.dumps({"id": "org/mine", "sha": SHA, "siblings": {"a": 1}}).encode(),
    json.dumps({"id": "org/mine", "sha": SHA, "siblings": [{"rfilename": 1, "size": "x", "lfs": "y"}]}).encode(),
    json.dumps({"id": "org/mine", "sha": SHA, "siblings": [{"rfilename": "a.json", "lfs": {"size": 1}}]}).encode(),
    json.dumps({"id": "org/mine", "sha": SHA, "lastModified": "yesterday", "siblings": []}).encode(),
    json.dumps({"id": "org/mine", "sha": 5, "cardData": 7}).encode(),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:40].decode(errors="replace"))
def test_a_page_or_anything_else_in_place_of_the_hubs_answer_is_told_at_once(store, page, body):
    page.say(body)
    error = error_of(download, store, page)
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert whole(store) == []


def test_a_sign_in_page_is_said_to_be_one_perhaps(store, page):
    page.say(BODIES[0])
    error = error_of(download, store, page)
    assert page.url in error.message
    assert "HF_ENDPOINT" in error.message


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_that_downloads_are_switched_off_is_told_with_the_switch(store, hub, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = error_of(download, store, hub)
    assert (error.kind, error.retryable, error.data["setting"]) == ("DownloadFailed", False, name)


@pytest.mark.parametrize(
    "target", ["http://[bad", "https://files.example:port/x", "https://files.example:99999/x", "\x7f"]
)
def test_a_redirect_to_what_is_no_address_is_told(store, hub, target):
    hub.fail("/resolve/", "redirect", to=target)
    error = error_of(download, store, hub)
    assert error.kind == "DownloadFailed"
    assert whole(store) == []


# --- every exception of the transport -------------------------------------------------------------


def _all(base):
    return [base, *(one for child in base.__subclasses__() for one in _all(child))]


REQUEST = httpx2.Request("GET", "https://hub.example/a")
TRANSPORT = [*(kind("x") for kind in _all(httpx2.TransportError)), httpx2.InvalidURL("x"), httpx2.DecodingError("x")]
OTHERS = [ValueError("x"), UnicodeError("x"), KeyError("x"), TypeError("x"), ImportError("x"), RuntimeError("x")]


@pytest.mark.parametrize("error", [*TRANSPORT, *OTHERS], ids=lambda error: type(error).__name__)
def test_no_exception_of_the_transport_is_a_fault_of_ours(store, hub, monkeypatch, error):
    def fail(*_, **__):
        raise error

    for owner, name in ((lookup, "ask"), (Transfer, "_open")):
        with monkeypatch.context() as played:
            played.setattr(owner, name, fail)
            found = error_of(download, store, hub)
        assert found.kind == "DownloadFailed"
        passes = isinstance(error, httpx2.HTTPError) and not isinstance(
            error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol
        )
        assert found.retryable == passes
    assert whole(store) == []


def test_a_certificate_that_is_not_trusted_is_told_at_once_with_the_setting_that_is_read():
    error = httpx2.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError(1, "self-signed certificate")
    found = classify(error, "https://hub.example/a", "the hub")
    assert isinstance(found, RpcError)
    assert (found.kind, found.retryable) == ("DownloadFailed", False)
    assert "SSL_CERT_FILE" in found.message
    assert "hub.example" in found.message


def test_the_proxy_by_which_the_hub_was_asked_is_named(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    found = classify(httpx2.ConnectError("x"), "https://hub.example/a", "the hub")
    assert isinstance(found, TransientError)
    assert "https_proxy" in str(found)
    refused = classify(httpx2.ProxyError("407 Proxy Authentication Required"), "https://hub.example/a", "the hub")
    assert (refused.kind, refused.retryable, refused.data["setting"]) == ("DownloadFailed", False, "https_proxy")
    monkeypatch.setenv("no_proxy", "hub.example")
    assert "proxy" not in str(classify(httpx2.ConnectError("x"), "https://hub.example/a", "the hub"))


@pytest.mark.parametrize("token", ["", "hf_a\n", "hf_größe"])
def test_a_token_that_is_none_opens_no_session(token):
    session = Session(None)
    params = {"protocolVersion": 1, "clientInfo": {"name": "test", "version": "1"}, "auth": {"token": token}}
    error = error_of(session.initialize, msgspec.convert(params, InitializeParams))
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.auth.token")
    assert (session.state, session.token) == ("new", None)
    params["auth"]["token"] = "hf_a"
    session.initialize(msgspec.convert(params, InitializeParams))
    assert (session.state, session.token) == ("open", "hf_a")
