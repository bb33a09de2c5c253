"""Imports from a Hugging Face cache: linked instead of copied, and only what is really in the cache."""

import os
import sys
from pathlib import Path

import pytest

from support.model_store import REVISION, WEIGHTS, error_of, hf_cache, take, whole, write_model


@pytest.mark.parametrize("where", ["root", "repository", "snapshot"])
def test_a_hugging_face_cache_is_linked(store, tmp_path, where):
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source"))
    folder = {"root": repository.parent, "repository": repository, "snapshot": repository / "snapshots" / REVISION}
    entry = take(store, folder[where])
    assert whole(store) == ["mine"]
    assert entry.meta.source[0].revision == REVISION
    origin = os.path.realpath(repository / "snapshots" / REVISION / WEIGHTS)
    assert os.stat(origin).st_mode & 0o200, "whose permissions are not ours to change"
    assert (entry.folder / WEIGHTS).stat().st_ino == os.stat(origin).st_ino


def test_a_cache_whose_bytes_are_not_what_they_are_named_by_is_refused(store, tmp_path):
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source"))
    victim = repository / "snapshots" / REVISION / WEIGHTS
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    error = error_of(take, store, repository)
    assert (error.kind, error.data["file"]) == ("IntegrityError", WEIGHTS)
    assert whole(store) == []


def test_a_link_that_leads_elsewhere_is_refused(store, tmp_path):
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source"))
    link = repository / "snapshots" / REVISION / "transformer" / "config.json"
    link.unlink()
    (tmp_path / "secret.json").write_text("{}")
    link.symlink_to(tmp_path / "secret.json")
    assert error_of(take, store, repository).data["file"] == "transformer/config.json"


@pytest.mark.skipif(os.name != "posix", reason="links and names of POSIX")
@pytest.mark.parametrize("what", ["blobs", "snapshots", "snapshot"])
def test_a_cache_whose_folders_are_links_gets_nothing_of_what_they_lead_to(store, tmp_path, what):
    """Its links would lead to a private key, and a model's text file may contain anything."""
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source", extra={"notes.txt": b"a private key"}))
    folder = repository / what
    if what == "snapshot":
        folder = repository / "snapshots" / REVISION
    elsewhere = tmp_path / "private" / "place"
    elsewhere.parent.mkdir()
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    if what == "snapshot":
        for link in [path for path in elsewhere.rglob("*") if path.is_symlink()]:
            data = (repository / "blobs" / Path(os.readlink(link)).name).read_bytes()
            link.unlink()
            link.write_bytes(data)
    error = error_of(take, store, repository)
    assert error.kind == ("IntegrityError" if what == "blobs" else "InvalidParams")
    assert whole(store) == []


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("ref", ["no text", "a hundred gigabytes", "a pipe", "a device", "a folder"])
def test_a_reference_of_a_cache_that_names_no_snapshot_is_none(store, tmp_path, ref):
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source"))
    main = repository / "refs" / "main"
    main.unlink()
    if ref == "no text":
        main.write_bytes(b"\xff\xfe")
    elif ref == "a hundred gigabytes":
        main.touch()
        os.truncate(main, 100 << 30)
    elif ref == "a pipe":
        os.mkfifo(main)
    elif ref == "a device":
        main.symlink_to("/dev/zero")
    else:
        main.mkdir()
    assert take(store, repository).meta.source[0].revision == REVISION


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"\x1b[31m", b"x" * 255])
def test_the_name_of_a_snapshot_that_can_be_no_commits_is_not_recorded(store, tmp_path, name):
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source"))
    snapshots = os.fsencode(repository / "snapshots")
    os.rename(os.path.join(snapshots, REVISION.encode()), os.path.join(snapshots, name))
    assert take(store, repository).meta.source[0].revision is None


def test_a_long_tokenizer_of_a_cache_is_known_by_its_own_name(store, tmp_path):
    """Its bytes are in a file that is named by their hash."""
    words = b'{"model": {"vocab": {}}, "filler": "' + b"x" * (6 << 20) + b'"}'
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "source", extra={"tokenizer/tokenizer.json": words}))
    assert "tokenizer/tokenizer.json" in [file.path for file in take(store, repository).meta.files]
