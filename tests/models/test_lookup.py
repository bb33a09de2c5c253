"""What a hub says about a repository: bounded, from an allowed place only, and checked member by member."""

import gzip
import json
import os
import tracemalloc

import httpx2
import pytest

from locara_sidecar.models.cache import partial
from locara_sidecar.models.downloads import addresses, lookup
from support.hub import COMMIT, FakeHub
from support.model_store import download, entry_for, error_of, whole

SIZE = 100
FILE = {"rfilename": "a.json", "size": SIZE, "blobId": "a" * 40}
INFO = {"id": "org/mine", "sha": COMMIT, "siblings": [FILE]}


def told(hub, body, headers=None):
    hub.fail("/api/", "answer", body=body, headers=headers or {})


def test_a_compressed_answer_is_refused_packed(store, hub):
    """600 kB of gzip hold 600 MB of blanks."""
    bomb = gzip.compress(bytes(1 << 20), 9) * 600
    told(hub, bomb, {"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        error = error_of(download, store, hub)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert "compressed" in error.message
    assert peak < 32 << 20
    assert hub.requests("/api/")[0].headers["accept-encoding"] == "identity"


def test_an_answer_that_is_too_long_is_not_read_to_its_end(store, hub, monkeypatch):
    monkeypatch.setattr(lookup, "MAX_ANSWER", 1 << 20)
    told(hub, json.dumps(INFO).encode() + b" " * (4 << 20))
    error = error_of(download, store, hub)
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert "longer than 1 MiB" in error.message
    assert whole(store) == []


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://elsewhere.example/api/models/org/mine", "not https"),
        ("https://127.0.0.1/api", "local network"),
        ("https://169.254.169.254/latest/meta-data", "local network"),
        ("https://nas.local/api", "local network"),
        ("file:///etc/passwd", "not https"),
        ("https://[", "not an address"),
    ],
)
def test_a_look_up_goes_only_where_a_file_may_come_from(monkeypatch, target, why):
    asked = _hub_that_redirects(monkeypatch, target)
    error = error_of(lookup.ask, "https://hub.example", "https://hub.example/api", {}, "org/mine")
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert why in error.message
    assert asked == ["https://hub.example/api"]


def test_a_look_up_does_not_go_round_for_ever(monkeypatch):
    asked = _hub_that_redirects(monkeypatch, "/again")
    error = error_of(lookup.ask, "https://hub.example", "https://hub.example/api", {}, "org/mine")
    assert "too many times" in error.message
    assert len(asked) == 1 + addresses.REDIRECTS


def _hub_that_redirects(monkeypatch, target):
    asked = []

    def answer(request):
        asked.append(str(request.url))
        return httpx2.Response(302, headers={"location": target})

    made = httpx2.Client
    monkeypatch.setattr(httpx2, "Client", lambda **more: made(transport=httpx2.MockTransport(answer), **more))
    return asked


def test_a_look_up_is_sent_on_without_the_token(store, hub):
    """As for a repository that was moved. The hub is on loopback and may therefore redirect to loopback."""
    elsewhere = FakeHub()
    try:
        elsewhere.repositories = hub.repositories
        hub.fail("/api/", "redirect", to=f"{elsewhere.url}/api/models/org/mine")
        download(store, hub, token="hf_secret")
        assert whole(store) == ["mine"]
        (asked,) = hub.requests("/api/")
        assert asked.headers["authorization"] == "Bearer hf_secret"
        assert elsewhere.requests("/api/")
        assert not any("authorization" in request.headers for request in elsewhere.log)
    finally:
        elsewhere.close()


WRONG = {
    "no sha": ({"siblings": [FILE]}, "sha"),
    "no siblings": ({"sha": COMMIT}, "siblings"),
    "a number for the commit": (INFO | {"sha": 7}, "$.sha"),
    "siblings that are none": (INFO | {"siblings": {}}, "$.siblings"),
    "a list": ([], "object"),
    "a file without a name": (INFO | {"siblings": [{"size": 1}]}, "rfilename"),
    "a name that is none": (INFO | {"siblings": [FILE | {"rfilename": ["a.json"]}]}, "$.siblings[0].rfilename"),
    "a size in words": (INFO | {"siblings": [FILE | {"size": "100"}]}, "$.siblings[0].size"),
    "a size past every number": (INFO | {"siblings": [FILE | {"size": 10**400}]}, "siblings[0].size"),
    "a hash that is none": (INFO | {"siblings": [FILE | {"lfs": {"sha256": 1, "size": 1}}]}, "lfs.sha256"),
    "no size of a large file": (INFO | {"siblings": [FILE | {"lfs": {"sha256": "0" * 64}}]}, "size"),
}


@pytest.mark.parametrize(("info", "named"), WRONG.values(), ids=WRONG)
def test_an_answer_of_other_members_is_refused_by_the_name_of_one(store, hub, info, named):
    told(hub, json.dumps(info).encode())
    error = error_of(download, store, hub)
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert "cannot be used" in error.message
    assert named in error.message
    assert whole(store) == []


@pytest.mark.parametrize("body", [b"", b"<html>sign in</html>", b'{"sha":', b'{"x":' * 100_000, b"\xff\xfe{}"])
def test_what_is_no_hub_is_said_to_be_none(store, hub, body):
    told(hub, body)
    error = error_of(download, store, hub)
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert "does not answer like a hub" in error.message


def test_members_that_are_not_used_may_be_absent(store, hub):
    """huggingface_hub's own parser needs an id and raises KeyError without one."""
    body = lookup.msgspec.json.encode(
        {
            "sha": COMMIT,
            "siblings": [
                {"rfilename": path, "size": size, "blobId": git}
                | ({"lfs": {"sha256": sha, "size": size}} if lfs else {})
                for path, (_, sha, git, size, lfs) in hub.repositories["org/mine"].files.items()
            ],
        }
    )
    told(hub, body)
    download(store, hub)
    assert whole(store) == ["mine"]


@pytest.mark.parametrize("name", ["../../x", "a/b/c", "a b"])
def test_a_name_that_is_no_repositorys_is_not_asked_for(store, hub, name):
    assert error_of(download, store, hub, entry_for(repository=name)).kind == "DownloadFailed"
    assert hub.log == []


@pytest.fixture
def kept(tmp_path):
    """A user's file next to the cache."""
    file = tmp_path / "keys.json"
    file.write_text('{"key": "of the user"}')
    file.chmod(0o600)
    return file


ELSEWHERE = {
    "the user's file for a blob": lambda store, kept: os.path.relpath(kept, store.blobs),
    "a path in place of a hash": lambda _, kept: str(kept),
    "a place for what comes": lambda store, kept: os.path.relpath(kept.parent / "planted", store.incoming),
    "nothing": lambda *_: "",
    "a hash too long": lambda *_: "a" * 65,
    "capital letters": lambda *_: "A" * 64,
    "a line more": lambda *_: "a" * 64 + "\n",
}


@pytest.mark.parametrize("hash_of", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_is_no_hash_leads_nowhere(store, hub, kept, hash_of):
    """A file in the store is named by its hash: a path from a hub in its place would be a user's file, while a git id
    is fine."""
    size = kept.stat().st_size
    stolen = {"rfilename": "stolen.json", "size": size, "blobId": "a" * 40}
    stolen["lfs"] = {"sha256": hash_of(store, kept), "size": size}
    told(hub, json.dumps(INFO | {"siblings": [stolen]}).encode())
    before = sorted(kept.parent.iterdir())
    error = error_of(download, store, hub)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "stolen.json")
    assert kept.stat().st_nlink == 1
    assert {path for path in kept.parent.iterdir() if path != store.root} == {*before} - {store.root}
    assert not hub.requests("/resolve/")


def test_no_path_comes_out_of_the_store_for_what_is_no_hash(store, kept):
    for name in (os.path.relpath(kept, store.blobs), str(kept), "..", ""):
        with pytest.raises(ValueError, match="no SHA-256"):
            store.has_blob(name, kept.stat().st_size)
        with pytest.raises(ValueError, match="no hash"):
            partial.claim(store.incoming, name)


def test_a_name_longer_than_any_path_is_refused_in_a_few_words(store, hub):
    told(hub, json.dumps(INFO | {"siblings": [FILE | {"rfilename": "a" * 3_000_000 + ".json"}]}).encode())
    error = error_of(download, store, hub)
    assert (error.kind, error.retryable) == ("DownloadFailed", False)
    assert "rfilename" in error.message
    assert len(error.message) + len(str(error.data)) < 1000


@pytest.mark.parametrize(("name", "size"), [("model_index.json", 5 << 20), ("tokenizer/vocab.json", 17 << 20)])
def test_a_text_file_that_is_announced_too_long_is_not_fetched(store, hub, name, size):
    """Otherwise its bytes would be downloaded and hashed, and only then refused."""
    told(hub, json.dumps(INFO | {"siblings": [FILE | {"rfilename": name, "size": size}]}).encode())
    error = error_of(download, store, hub)
    assert (error.kind, error.data["file"]) == ("IntegrityError", name)
    assert f"longer than the {(size >> 20) - 1} MiB" in error.message
    assert not hub.requests("/resolve/")
