"""Where bytes may come from, how long a server may take, and how much is requested of it at once."""

import contextlib
import hashlib
import json
import queue
import socket
import threading
import time
from types import SimpleNamespace

import httpx2
import msgspec
import pytest
from huggingface_hub import close_session

from locara_sidecar.models.cache import partial
from locara_sidecar.models.downloads import addresses, lookup
from locara_sidecar.models.downloads import download as module
from locara_sidecar.models.downloads import transfer as transfers
from locara_sidecar.models.downloads.addresses import check_target
from locara_sidecar.models.downloads.download import AT_ONCE, Download
from locara_sidecar.models.downloads.hub import RemoteFile, TransientError
from locara_sidecar.models.downloads.transfer import RetryPolicy, StoppedError, Transfer
from support.model_store import QUICK, download, entry_for, error_of, safetensors, whole, write_model


def transfer_to(endpoint, patience=QUICK, stopped=lambda: False):
    return Transfer(endpoint, {}, patience=patience, on_bytes=lambda _: None, stopped=stopped)


@pytest.fixture
def names(monkeypatch):
    """Set what names resolve to, instead of DNS."""
    known = {}

    def look_up(host, port, **_):
        if host not in known:
            raise OSError(f"no such name: {host}")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host], 0))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    return known


def test_from_a_public_hub_redirects_to_other_public_hosts_are_followed_over_https(names):
    names["files.example"] = "8.8.8.8"
    check_target("https://hub.example", "https://files.example/x", "a")
    check_target("https://hub.example", "https://behind-a-proxy.example/x", "a")
    check_target("https://hub.example", "https://hub.example/x", "a")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "100.64.0.1"])
def test_a_name_that_leads_into_the_local_network_is_an_address_of_it(names, address):
    names["innocent.example"] = address
    error = error_of(check_target, "https://hub.example", "https://innocent.example/x", "a")
    assert error.kind == "DownloadFailed"


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "169.254.169.254", "nas.local"])
def test_no_spelling_of_a_local_address_is_followed(names, host):
    assert error_of(check_target, "https://hub.example", f"https://{host}/x", "a").kind == "DownloadFailed"


def test_a_hub_in_the_local_network_may_redirect_within_it(names):
    check_target("https://10.0.0.5", "https://10.0.0.6/x", "a")
    assert error_of(check_target, "https://10.0.0.5", "http://10.0.0.6/x", "a").kind == "DownloadFailed"


def answering(answers, endpoint="https://hub.example"):
    """Return a transfer with simulated hosts: ``answers`` maps an address to a redirect's target or to bytes."""
    asked = []

    def answer(request):
        asked.append((str(request.url), request.headers.get("authorization")))
        found = answers[str(request.url)]
        if isinstance(found, str):
            return httpx2.Response(302, headers={"location": found})
        return httpx2.Response(200, stream=httpx2.ByteStream(found), headers={"content-length": str(len(found))})

    transfer = Transfer(
        endpoint,
        {"authorization": "Bearer of-the-user"},
        patience=QUICK,
        on_bytes=lambda _: None,
        stopped=lambda: False,
    )
    transfer._client.close()
    transfer._client = httpx2.Client(transport=httpx2.MockTransport(answer))
    return transfer, asked


def remote(data):
    return RemoteFile(
        path="a.json",
        url="https://hub.example/a",
        page="https://hub.example",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        git=None,
    )


def test_a_public_hub_may_send_us_to_another_public_host_and_the_token_stays_behind(names, tmp_path):
    names["files.example"] = "8.8.8.8"
    part = partial.claim(tmp_path, "a")
    answers = {"https://hub.example/a": "https://files.example/b", "https://files.example/b": b"bytes"}
    transfer, asked = answering(answers)
    transfer.fetch(remote(b"bytes"), part)
    part.close()
    assert asked == [("https://hub.example/a", "Bearer of-the-user"), ("https://files.example/b", None)]


@pytest.mark.parametrize("target", ["http://files.example/b", "https://10.0.0.1/b", "https://localhost/b", "ftp://f/b"])
def test_where_a_public_hub_must_not_lead_nobody_is_asked(names, tmp_path, target):
    part = partial.claim(tmp_path, "a")
    transfer, asked = answering({"https://hub.example/a": target, target: b"bytes"})
    error = error_of(transfer.fetch, remote(b"bytes"), part)
    part.close()
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert [address for address, _ in asked] == ["https://hub.example/a"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_that_has_expired_is_asked_of_the_hub_again_and_the_rest_comes_from_there(store, hub, status):
    """The first address delivers a part of the file, and is gone at the second try."""
    path = "transformer/diffusion_pytorch_model.safetensors"
    where = f"/cdn/{hub.repositories['org/mine'].files[path][1]}"
    hub.fail(where, "cut", at=20_000, times=1)
    hub.fail(where, "status", status=status, times=1)
    download(store, hub)
    assert whole(store) == ["mine"]
    assert [request.headers.get("range") for request in hub.requests(where)] == [None, *["bytes=20000-"] * 2]
    assert len(hub.requests(f"/{path}")) == 3


def test_redirects_do_not_go_round_for_ever(store, hub):
    where = "/resolve/"
    hub.fail(where, "redirect", to=f"{hub.url}/org/mine/resolve/main/model_index.json")
    assert error_of(download, store, hub).kind == "DownloadFailed"
    assert len(hub.requests(where)) < 50


def test_waits_grow_are_bounded_and_end_when_the_download_is_stopped(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(transfers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(transfers.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    transfer = transfer_to("https://hub.example", RetryPolicy())
    waits = []
    for failures in range(1, 12):
        began = now[0]
        transfer._wait(failures, 0.0)
        waits.append(now[0] - began)
    assert 0.25 <= waits[0] <= 0.51
    assert waits[4] > 2 * waits[1]
    assert max(waits) <= 20.001
    began = now[0]
    transfer._wait(1, 7.0)  # the server asked for that
    assert now[0] - began == pytest.approx(7.0)
    with pytest.raises(StoppedError):
        transfer_to("https://hub.example", stopped=lambda: True)._wait(5, 0.0)


def test_a_server_is_asked_again_no_sooner_than_it_wants(store, hub):
    hub.fail("/resolve/", "status", status=429, times=1, headers={"Retry-After": "1"})
    began = time.monotonic()
    download(store, hub)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(("size", "broken_off"), [(1000, True), (2000, False)])
def test_a_transfer_that_brings_too_little_in_its_window_is_broken_off(tmp_path, monkeypatch, size, broken_off):
    """One piece comes per second; the minimum is 30 KiB in 30 seconds."""
    now = [0.0]
    monkeypatch.setattr(transfers.time, "monotonic", lambda: now[0])

    def pieces():
        for _ in range(100):
            now[0] += 1.0
            yield bytes(size)

    part = partial.claim(tmp_path, "a")
    transfer = transfer_to("https://hub.example", RetryPolicy())
    response = SimpleNamespace(iter_raw=pieces)
    with pytest.raises(TransientError, match="too slow") if broken_off else contextlib.nullcontext():
        transfer._receive(remote(bytes(100 * size)), part, response)
    assert part.size == (30 if broken_off else 100) * size
    part.close()


def test_several_files_come_at_once_and_no_more_than_the_bound(store, hub, tmp_path):
    extra = {f"transformer/part{number}.safetensors": safetensors(40_000, number) for number in range(10)}
    hub.add("org/many", write_model(tmp_path / "many", extra=extra))
    hub.pace = 0.02
    download(store, hub, entry_for("many", "org/many"))
    assert 2 <= hub.most_at_once <= AT_ONCE
    assert whole(store) == ["many"]


@pytest.mark.parametrize(
    ("where", "kind", "answer"),
    [
        ("/cdn/", "other", "IntegrityError"),
        ("/cdn/", "longer", "IntegrityError"),
        ("/cdn/", "shorter", "IntegrityError"),
        ("config.json", "other", "IntegrityError"),
        ("config.json", "longer", "IntegrityError"),
        ("/cdn/", "cut", "DownloadFailed"),
    ],
)
def test_what_the_server_has_instead_of_the_file_is_refused(store, hub, where, kind, answer):
    hub.fail(where, kind, at=7)
    assert error_of(download, store, hub).kind == answer
    assert whole(store) == []


def test_other_bytes_than_the_hub_announced_are_refused_at_the_redirect(store, hub):
    other = "0" * 64
    hub.fail("/resolve/", "redirect", to=f"{hub.cdn}/cdn/{other}", headers={"X-Linked-Etag": f'"{other}"'}, times=10**9)
    source = {"repository": "org/mine", "files": ["*.safetensors"]}
    assert error_of(download, store, hub, entry_for(source=source)).kind == "IntegrityError"
    assert not hub.requests("/cdn/")


def test_a_proxy_of_the_environment_is_asked_in_place_of_the_hub(store, hub, monkeypatch, request):
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.setenv("no_proxy", "")
    hub.cdn = "http://hub.example"  # no name server knows it
    close_session()  # it was opened without a proxy
    request.addfinalizer(close_session)
    Download(store, entry_for(), tell=lambda _: None, endpoint="http://hub.example", patience=QUICK, token=False).run()
    assert whole(store) == ["mine"]
    assert {request.headers["host"] for request in hub.log} == {"hub.example"}


def test_the_users_own_token_is_found_where_huggingface_hub_keeps_it(store, hub, monkeypatch):
    hub.repositories["org/mine"].gated = True
    monkeypatch.setenv("HF_TOKEN", hub.token)
    Download(store, entry_for(), tell=lambda _: None, endpoint=hub.url, patience=QUICK).run()
    assert whole(store) == ["mine"]


@pytest.mark.parametrize("lacking", [0, 1])
def test_what_has_come_already_needs_no_more_room(store, hub, monkeypatch, lacking):
    """One of the large files is there already, and 40,000 bytes of the other."""
    path = "transformer/diffusion_pytorch_model.safetensors"
    files = hub.repositories["org/mine"].files
    hub.fail(f"/cdn/{files[path][1]}", "cut", at=40_000)
    error_of(download, store, hub)
    hub.faults.clear()
    needed = files[path][3] - 40_000 + sum(size for _, _, _, size, lfs in files.values() if not lfs)
    monkeypatch.setattr(module, "_SPARE", 0)
    monkeypatch.setattr(module.disk, "available", lambda _: needed - lacking)
    if lacking:
        error = error_of(download, store, hub)
        assert (error.kind, error.data["needed"]) == ("InsufficientDisk", needed)
    else:
        download(store, hub)
        assert whole(store) == ["mine"]


ETAGS = [('"strong"', '"strong"'), ('W/"weak"', None), ("bare", None), ("", None)]
ETAGS += [('"\xe9"', None), ('"a b"', None), (f'"{"x" * 300}"', None), ('"a"b"', None)]


@pytest.mark.parametrize(("etag", "kept"), ETAGS)
def test_only_a_strong_validator_is_kept_for_the_next_try(tmp_path, etag, kept):
    part = partial.claim(tmp_path, "a")
    headers = [(b"content-length", b"5"), (b"etag", etag.encode("latin-1"))]
    transfer_to("https://hub.example")._begin(remote(b"bytes"), part, httpx2.Response(200, headers=headers))
    assert part.etag == kept
    part.close()


@pytest.mark.parametrize("etag", ['"\xe9"', '"\r\nx: y"', '"' + "x" * 300_000 + '"'])
def test_a_validator_of_the_cache_that_no_header_can_hold_is_none(tmp_path, etag):
    """An ETag of a hub's that could not be sent back used to make every later attempt fail."""
    part = partial.claim(tmp_path, "a")
    part.write(b"by")
    part._note.write_text(json.dumps({"etag": etag}))
    part.close()
    part = partial.claim(tmp_path, "a")
    assert (part.size, part.etag) == (2, None)
    transfer, asked = answering({"https://hub.example/a": b"bytes"})
    transfer.fetch(remote(b"bytes"), part)
    part.close()
    assert [url for url, _ in asked] == ["https://hub.example/a"]


@pytest.mark.parametrize("where", ["/api/", "/resolve/"])
def test_a_server_that_never_comes_to_its_answer_is_given_up(store, hub, monkeypatch, where):
    monkeypatch.setattr(lookup, "_SECONDS", 0.5)
    hub.fail(where, "interim")
    began = time.monotonic()
    error = error_of(download, store, hub, patience=msgspec.structs.replace(QUICK, connect=0.1, read=0.2, tries=2))
    assert (error.kind, error.retryable) == ("DownloadFailed", True)
    assert time.monotonic() - began < 10


def test_a_wait_for_an_answer_ends_when_the_download_is_stopped(hub):
    hub.fail("/a", "interim")
    began = time.monotonic()
    transfer = transfer_to(hub.url, RetryPolicy(), stopped=lambda: time.monotonic() - began > 0.3)
    with pytest.raises(StoppedError):
        transfer._open(msgspec.structs.replace(remote(b""), url=f"{hub.url}/a"), {})
    assert time.monotonic() - began < 10
    transfer.close()
    assert not transfer._client.is_closed, "a thread still reads from it"


def test_a_connection_is_closed_by_the_thread_that_reads_from_it(hub, monkeypatch):
    """Once closed, its descriptor's number may mean a file that is being written."""
    closed = queue.Queue()

    class Client(httpx2.Client):
        def __exit__(self, *_):
            super().__exit__()
            closed.put(threading.current_thread())

    monkeypatch.setattr(lookup, "_SECONDS", 0.3)
    monkeypatch.setattr(lookup.httpx2, "Client", Client)
    hub.fail("/api/", "interim")
    with pytest.raises(httpx2.ReadTimeout):
        lookup.ask(hub.url, f"{hub.url}/api/models/org/mine", {}, "org/mine")
    assert closed.empty()
    hub.ended.set()
    assert closed.get(timeout=10) is not threading.current_thread()


def test_a_range_past_every_number_is_another_one(tmp_path):
    part = partial.claim(tmp_path, "a")
    part.write(b"by")
    headers = {"content-range": f"bytes {'9' * 5000}-9/*"}
    with pytest.raises(TransientError, match="different range"):
        transfer_to("https://hub.example")._begin(remote(b"bytes"), part, httpx2.Response(206, headers=headers))
    part.close()


def test_a_small_file_of_other_bytes_is_refused_though_they_could_be_a_configuration(names, tmp_path):
    wanted, sent = b'{"a": 1}', b'{"a": 2}'
    git = hashlib.sha1(b"blob 8\0" + wanted, usedforsecurity=False).hexdigest()
    small = msgspec.structs.replace(remote(wanted), sha256=None, git=git)
    part = partial.claim(tmp_path, "a")
    error = error_of(answering({"https://hub.example/a": sent})[0].fetch, small, part)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "a.json")
    answering({"https://hub.example/a": wanted})[0].fetch(small, part)
    part.close()
