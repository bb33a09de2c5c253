"""Downloads from a hub that behaves and from one that does not: complete and correct, or nothing."""

import threading

import pytest

from locara_sidecar.models.cache import collect, partial, survey
from locara_sidecar.models.downloads import download as module
from locara_sidecar.models.downloads.addresses import check_target
from locara_sidecar.models.downloads.download import Download
from locara_sidecar.models.downloads.transfer import Transfer
from support.model_store import WEIGHTS, download, entry_for, error_of, safetensors, whole, write_model


def cdn_of(hub, path, repository="org/mine"):
    return f"/cdn/{hub.repositories[repository].files[path][1]}"


def part_of(store, hub, path):
    """The unfinished file; another one may be left beside it, if it was on its way when this one failed."""
    key = cdn_of(hub, path).removeprefix("/cdn/")
    (part,) = [part for part in store.incoming.glob("*.part") if partial.key_of(part) == key]
    return part


def test_a_model_is_downloaded_checked_and_recorded(store, hub):
    told = []
    entry = download(store, hub, told=told)
    assert whole(store) == ["mine"]
    assert entry.meta.digest == f"sha256:{entry.folder.name}"
    assert entry.meta.source[0].repository == "org/mine"
    assert len(entry.meta.source[0].revision) == 40
    phases = list(dict.fromkeys(message.phase for message in told))
    assert phases == ["resolving", "downloading", "verifying", "publishing"]
    assert told[-1].bytes == told[-1].total_bytes == entry.meta.bytes
    assert list(store.incoming.iterdir()) == []
    files = [path for path in (*entry.folder.rglob("*"), *store.blobs.iterdir()) if path.is_file()]
    assert not any(path.stat().st_mode & 0o222 for path in files if path.name != "meta.json")


def test_an_installed_model_is_not_asked_for_again(store, hub):
    first = download(store, hub)
    asked = len(hub.log)
    assert download(store, hub).folder == first.folder
    assert len(hub.log) == asked


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("/cdn/", {"kind": "cut", "at": 30_000, "times": 3}),
        ("/cdn/", {"kind": "status", "status": 503, "times": 2}),
        ("/resolve/", {"kind": "status", "status": 429, "times": 1, "headers": {"Retry-After": "0"}}),
        ("/api/", {"kind": "status", "status": 502, "times": 2}),
        ("/cdn/", {"kind": "status", "status": 403, "times": 1}),
        ("/cdn/", {"kind": "refuse", "times": 2}),
        ("/cdn/", {"kind": "flip", "at": 1000, "times": 1}),
        ("/cdn/", {"kind": "etag", "times": 1}),
        ("config.json", {"kind": "cut", "at": 3, "times": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value['kind']}{value.get('status', '')}",
)
def test_what_passes_is_waited_for(store, hub, where, fault):
    hub.fail(where, **fault)
    download(store, hub)
    assert whole(store) == ["mine"]


@pytest.mark.parametrize(
    ("where", "fault", "kind"),
    [
        ("/cdn/", {"kind": "flip", "at": 1000}, "IntegrityError"),
        ("config.json", {"kind": "flip", "at": 2}, "IntegrityError"),
        ("/cdn/", {"kind": "endless"}, "IntegrityError"),
        ("/cdn/", {"kind": "drip"}, "DownloadFailed"),
        ("/cdn/", {"kind": "status", "status": 500}, "DownloadFailed"),
        ("/cdn/", {"kind": "refuse"}, "DownloadFailed"),
        ("/resolve/", {"kind": "status", "status": 404}, "DownloadFailed"),
        ("/resolve/", {"kind": "redirect", "to": "ftp://files.example/x"}, "DownloadFailed"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else value.strip("/"),
)
def test_what_does_not_pass_is_a_typed_error_and_nothing_is_visible(store, hub, where, fault, kind):
    hub.fail(where, **fault)
    error = error_of(download, store, hub)
    assert error.kind == kind
    assert whole(store) == []
    hub.faults.clear()
    download(store, hub)
    assert whole(store) == ["mine"]


def test_without_the_hash_check_the_wrong_bytes_would_be_published(store, hub, monkeypatch):
    """The control: it is the hash comparison that makes the tests above pass."""
    monkeypatch.setattr(Transfer, "_verify", lambda *_: None)
    hub.fail("/cdn/", "flip", at=1000)
    entry = download(store, hub)
    served = hub.repositories["org/mine"].files
    assert any(file.sha256 != served[file.path][1] for file in entry.meta.files)


def test_the_rest_is_fetched_from_where_the_last_try_stopped(store, hub):
    hub.fail(cdn_of(hub, WEIGHTS), "cut", at=40_000)
    assert error_of(download, store, hub).kind == "DownloadFailed"
    hub.faults.clear()
    hub.log.clear()
    left = {partial.key_of(part) for part in store.incoming.glob("*.part")}
    download(store, hub)
    (request,) = hub.requests(cdn_of(hub, WEIGHTS))
    assert request.headers["range"] == "bytes=40000-"
    assert request.headers["if-range"].strip('"') == cdn_of(hub, WEIGHTS).removeprefix("/cdn/")
    fetched = [request.path.removeprefix("/cdn/") for request in hub.requests("/cdn/")]
    assert sorted(fetched) == sorted(left), "what was complete is not fetched again"
    assert whole(store) == ["mine"]


@pytest.mark.parametrize("kind", ["range", "etag"])
def test_another_range_or_another_file_starts_from_the_first_byte(store, hub, kind):
    hub.fail(cdn_of(hub, WEIGHTS), "cut", at=40_000)
    error_of(download, store, hub)
    hub.faults.clear()
    hub.log.clear()
    hub.fail(cdn_of(hub, WEIGHTS), kind, times=1)
    sent = hub.sent
    download(store, hub)
    assert hub.sent - sent >= 60_000, "all of it has come again"
    first, *rest = hub.requests(cdn_of(hub, WEIGHTS))
    assert first.headers["range"] == "bytes=40000-"
    assert not any("range" in request.headers for request in rest)
    assert len(rest) == (kind == "range"), "to another file the hub answers with all of it at once"
    assert whole(store) == ["mine"]


def test_a_part_of_which_no_validator_is_known_is_fetched_from_the_first_byte(store, hub):
    hub.fail(cdn_of(hub, WEIGHTS), "cut", at=40_000)
    error_of(download, store, hub)
    hub.faults.clear()
    hub.log.clear()
    part = part_of(store, hub, WEIGHTS)
    part.with_suffix(".json").unlink()
    download(store, hub)
    (request,) = hub.requests(cdn_of(hub, WEIGHTS))
    assert "range" not in request.headers
    assert whole(store) == ["mine"]


def test_a_partial_file_that_is_longer_than_the_file_is_fetched_anew(store, hub):
    hub.fail(cdn_of(hub, WEIGHTS), "cut", at=40_000)
    error_of(download, store, hub)
    hub.faults.clear()
    part = part_of(store, hub, WEIGHTS)
    part.write_bytes(bytes(100_000))
    download(store, hub)
    assert whole(store) == ["mine"]


def test_a_partial_file_that_was_damaged_on_the_disk_is_fetched_anew(store, hub):
    hub.fail(cdn_of(hub, WEIGHTS), "cut", at=40_000)
    error_of(download, store, hub)
    hub.faults.clear()
    part = part_of(store, hub, WEIGHTS)
    part.write_bytes(bytes(40_000))
    told = []
    download(store, hub, told=told)
    assert whole(store) == ["mine"]
    assert all(message.bytes <= message.total_bytes for message in told), "what was thrown away is taken back"


def test_stopping_keeps_what_has_come(store, hub):
    hub.fail("/cdn/", "drip")
    started = threading.Event()
    task = Download(store, entry_for(), tell=lambda p: p.bytes > 400 and started.set(), endpoint=hub.url, token=False)
    errors = []
    thread = threading.Thread(target=lambda: errors.append(error_of(task.run)))
    thread.start()
    assert started.wait(40)
    task.stop()
    thread.join(20)
    assert errors[0].kind == "RequestCancelled"
    assert any(part.stat().st_size for part in store.incoming.glob("*.part"))
    assert whole(store) == []


def test_a_gated_model_needs_the_token_of_somebody_who_accepted(store, hub, tmp_path):
    hub.add("org/gated", write_model(tmp_path / "gated", seed=3), gated=True)
    gated = entry_for("gated", "org/gated")
    for token in (None, "wrong"):
        error = error_of(download, store, hub, gated, token=token)
        assert (error.kind, error.data["url"]) == ("LicenseNotAccepted", f"{hub.url}/org/gated")
    download(store, hub, gated, token=hub.token)
    assert whole(store) == ["gated"]


def test_the_token_goes_to_the_hub_and_nowhere_else(store, hub, tmp_path):
    elsewhere = type(hub)()
    try:
        elsewhere.add("org/mine", tmp_path / "mine")
        sha = cdn_of(hub, WEIGHTS)
        hub.fail(f"resolve/{'5ba5e1e5' * 5}/{WEIGHTS}", "redirect", to=f"{elsewhere.url}{sha}")
        download(store, hub, token="secret-of-the-user")
        assert any("secret" in request.headers.get("authorization", "") for request in hub.log)
        assert elsewhere.log
        assert not any("authorization" in request.headers for request in elsewhere.log)
    finally:
        elsewhere.close()


@pytest.mark.parametrize(
    "target",
    ["http://files.example/x", "https://127.0.0.1/x", "https://10.0.0.1/x", "https://[::1]/x", "https://localhost/x"],
)
def test_from_a_public_hub_no_redirect_leads_to_plain_http_or_into_the_local_network(target):
    error = error_of(check_target, "https://hub.example", target, "a.safetensors")
    assert (error.kind, error.retryable) == ("DownloadFailed", False)


def test_the_disk_is_checked_before(store, hub, monkeypatch):
    size = sum(row[3] for row in hub.repositories["org/mine"].files.values())
    for free in (1000, size + module._SPARE - 1):
        monkeypatch.setattr(module.disk, "available", lambda _, free=free: free)
        error = error_of(download, store, hub)
        assert error.kind == "InsufficientDisk"
        assert (error.data["needed"], error.data["available"]) == (size + module._SPARE, free)
    assert not hub.requests("/cdn/")
    monkeypatch.setattr(module.disk, "available", lambda _: size + module._SPARE)
    download(store, hub)


def test_an_unknown_repository_or_revision_is_not_tried_for_long(store, hub):
    assert error_of(download, store, hub, entry_for(repository="org/none")).kind == "DownloadFailed"
    source = {"repository": "org/mine", "revision": "gone", "files": ["*.json"]}
    error = error_of(download, store, hub, entry_for(source=source))
    assert (error.kind, error.retryable) == ("DownloadFailed", False)


def test_two_models_that_share_files_fetch_and_store_them_once(store, hub, tmp_path):
    for number in (1, 2, 3):
        hub.add(f"org/m{number}", write_model(tmp_path / f"m{number}", t5="shared", seed=number))
    entries = [download(store, hub, entry_for(f"m{number}", f"org/m{number}")) for number in (1, 2, 3)]
    shared = "text_encoder/model.safetensors"
    assert len(hub.requests(cdn_of(hub, shared, "org/m1"))) == 1
    assert len({(entry.folder / shared).stat().st_ino for entry in entries}) == 1
    size = (entries[0].folder / shared).stat().st_size
    report = survey.usage(store)
    assert report.bytes < sum(entry.meta.bytes for entry in entries) - size
    assert all(model.shared >= size for model in report.models)


def test_a_model_of_two_repositories_is_put_together(store, hub, tmp_path):
    write_model(tmp_path / "base", extra={WEIGHTS: None})
    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "unet_4step.safetensors").write_bytes(safetensors(9000, 7))
    hub.add("org/base", tmp_path / "base")
    hub.add("org/light", tmp_path / "light")
    source = [
        {"repository": "org/base", "files": ["*.json", "text_encoder/*.safetensors"]},
        {"repository": "org/light", "files": ["unet_4step.safetensors"], "place": {"unet_4step.safetensors": WEIGHTS}},
    ]
    entry = download(store, hub, entry_for("both", source=source))
    assert (entry.folder / WEIGHTS).read_bytes() == safetensors(9000, 7)
    assert [origin.repository for origin in entry.meta.source] == ["org/base", "org/light"]


def test_the_same_files_under_another_id_are_the_same_entry(store, hub):
    first = download(store, hub)
    second = download(store, hub, entry_for("alias"))
    assert first.folder == second.folder
    assert whole(store) == ["alias", "mine"]
    collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    assert whole(store) == ["alias"]


def test_two_downloads_of_one_model_at_once_both_end_well(store, hub):
    results = []
    threads = [
        threading.Thread(target=lambda name=name: results.append(download(store, hub, entry_for(name))))
        for name in ("mine", "twin")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == 2
    assert whole(store) == ["mine", "twin"]


def test_of_a_process_one_download_at_a_time_has_the_same_bytes(tmp_path):
    """Two files of a model can be identical, like SD 3.5's tokenizers; each part stays with whoever claimed it."""
    lost = []

    def claim_and_write(folder):
        for _ in range(20):
            part = partial.claim(folder, "a" * 8)
            if part is not None:
                part.write(b"bytes")
                if not part.path.exists():
                    lost.append(part.path)
                part.close(delete=True)

    for number in range(60):  # without this protection a quarter of them went wrong
        folder = tmp_path / str(number)
        folder.mkdir()
        threads = [threading.Thread(target=claim_and_write, args=(folder,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert list(folder.iterdir()) == []
    assert lost == []


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"transformer/pytorch_model.bin": b"\x80\x04"}, "pytorch_model.bin"),
        ({"model.gguf": b"GGUF"}, "model.gguf"),
        ({"transformer/attack.py": b"print()"}, "attack.py"),
        ({"weights.zip": b"PK"}, "weights.zip"),
        ({"transformer/config.json": b'{"auto_map": {"AutoModel": "attack.Model"}}'}, "transformer/config.json"),
        ({"text_encoder/config.json": b'{"custom_pipeline": "attack"}'}, "text_encoder/config.json"),
        ({"transformer/bad.safetensors": b"\x80\x04pickle, under another name" * 100}, "bad.safetensors"),
        (
            {"transformer/x.safetensors.index.json": b'{"weight_map": {"a": "../../../secret.safetensors"}}'},
            "x.safetensors.index.json",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_could_run_is_refused_by_name_and_costs_no_weights(store, hub, tmp_path, extra, named):
    hub.add("org/bad", write_model(tmp_path / "bad", extra=extra))
    source = {"repository": "org/bad", "files": ["*"]}
    error = error_of(download, store, hub, entry_for("bad", source=source))
    assert error.kind == "IntegrityError"
    assert error.data["file"].endswith(named)
    assert whole(store) == []
    if not named.endswith("bad.safetensors"):
        assert not hub.requests("/cdn/")


def test_what_no_pattern_selects_is_skipped(store, hub, tmp_path):
    hub.add("org/bad", write_model(tmp_path / "bad", extra={"setup.py": b"print()", "old.ckpt": b"\x80"}))
    entry = download(store, hub, entry_for("bad", "org/bad"))
    assert not any(file.path.endswith((".py", ".ckpt")) for file in entry.meta.files)
    assert not hub.requests("setup.py")


def test_what_a_source_excludes_is_not_fetched(store, hub, tmp_path):
    extra = {"transformer/other.fp16.safetensors": safetensors(9000, 7)}
    hub.add("org/two", write_model(tmp_path / "two", extra=extra))
    source = {"repository": "org/two", "files": ["*.json", "*.safetensors"], "exclude": ["*.fp16.*"]}
    entry = download(store, hub, entry_for("two", source=source))
    assert len(entry.meta.files) == 5
    assert not hub.requests("fp16")


def test_a_file_for_which_the_hub_tells_no_hash_is_refused(store, hub):
    files = hub.repositories["org/mine"].files
    path, sha256, _, size, _ = files["model_index.json"]
    files["model_index.json"] = (path, sha256, "", size, False)
    error = error_of(download, store, hub)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "model_index.json")
    assert not hub.requests("/resolve/")


def test_a_model_without_one_of_its_parts_is_incomplete(store, hub, tmp_path):
    hub.add("org/half", write_model(tmp_path / "half", extra={WEIGHTS: None, "transformer/config.json": None}))
    assert error_of(download, store, hub, entry_for("half", "org/half")).kind == "ModelIncomplete"
    assert whole(store) == []
