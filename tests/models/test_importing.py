"""From a folder or a Hugging Face cache: without a second copy where nobody can edit the first."""

import errno
import hashlib
import os
import shutil
import sys

import pytest

from locara_sidecar.models import disk
from locara_sidecar.models.importing import import_model
from models.helpers import entry_for, error_of, whole, write_model


class Counting:
    def __init__(self, real):
        self.real = real
        self.calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.real(*arguments)


REVISION = "c0ffee" * 6 + "c0ff"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def take(store, folder, entry=None):
    return import_model(store, entry or entry_for(), folder, lambda _: None)


def hf_cache(root, model):
    """The layout that huggingface_hub makes: blobs, and snapshots of links to them."""
    repository = root / "models--org--mine"
    for path in sorted(model.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            blob = repository / "blobs" / hashlib.sha256(data).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            link = repository / "snapshots" / REVISION / path.relative_to(model)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    return repository


def test_a_folder_is_copied_because_its_files_may_be_edited(store, tmp_path):
    source = write_model(tmp_path / "source", extra={"notes.py": b"x", ".cache/x": b"y"})
    entry = take(store, source)
    assert whole(store) == ["mine"]
    assert (entry.folder / WEIGHTS).stat().st_ino != (source / WEIGHTS).stat().st_ino
    assert entry.meta.source[0].imported
    (source / WEIGHTS).write_bytes(b"edited")
    assert whole(store) == ["mine"]


def test_a_folder_is_cloned_where_the_system_clones_by_name(store, tmp_path, monkeypatch):
    """As on APFS; here clonefile is played by a copy."""
    cloned = []

    class Library:
        def __init__(self, *_, **__):
            pass

        def clonefile(self, source, target, flags):
            if len(cloned) == 3:
                return -1  # what is left lies on another volume
            cloned.append((os.fsdecode(source), flags))
            shutil.copyfile(source, target)
            return 0

    monkeypatch.setattr(disk.sys, "platform", "darwin")
    monkeypatch.setattr(disk.ctypes, "CDLL", Library)
    source = write_model(tmp_path / "source")
    take(store, source)
    assert whole(store) == ["mine"]
    assert len({path for path, _ in cloned if path.startswith(str(source))}) == 3
    assert {flags for _, flags in cloned} == {0}


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


def test_a_link_in_a_plain_folder_is_refused(store, tmp_path):
    source = write_model(tmp_path / "source", extra={"transformer/config.json": None})
    (tmp_path / "secret.json").write_text("{}")
    (source / "transformer" / "config.json").symlink_to(tmp_path / "secret.json")
    error = error_of(take, store, source)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "transformer/config.json")
    assert whole(store) == []


def test_a_file_that_changes_while_it_is_imported_is_what_the_copy_is(store, tmp_path, monkeypatch):
    source = write_model(tmp_path / "source")
    honest = disk.copy

    def copy(old, new):
        honest(old, new)
        if old == source / "transformer/config.json":
            old.write_bytes(b'{"another": "configuration"}')

    monkeypatch.setattr(disk, "copy", copy)
    entry = take(store, source)
    assert whole(store) == ["mine"]
    assert "another" not in (entry.folder / "transformer/config.json").read_text()


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({WEIGHTS: b"\x80\x04 a pickle"}, "IntegrityError"),
        ({WEIGHTS: None, "transformer/config.json": None}, "ModelIncomplete"),
        ({"transformer/config.json": b'{"auto_map": {"A": "b.C"}}'}, "IntegrityError"),
    ],
)
def test_an_import_is_checked_as_a_download_is(store, tmp_path, extra, kind):
    assert error_of(take, store, write_model(tmp_path / "source", extra=extra)).kind == kind
    assert whole(store) == []


def test_what_is_no_model_is_a_bad_parameter(store, tmp_path):
    error = error_of(take, store, tmp_path)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.from")


@pytest.mark.parametrize("kind", ["folder", "cache"])
def test_the_disk_is_checked_before_an_import_that_copies(store, tmp_path, monkeypatch, kind):
    source = write_model(tmp_path / "source")
    monkeypatch.setattr(disk, "available", lambda _: 1000)
    if kind == "cache":  # costs no room
        take(store, hf_cache(tmp_path / "hub", source))
        assert whole(store) == ["mine"]
        return
    error = error_of(take, store, source)
    assert error.kind == "InsufficientDisk"
    assert error.data["needed"] > error.data["available"] == 1000


def test_a_disk_that_fills_up_on_the_way_is_told_with_what_the_model_needs(store, tmp_path, monkeypatch):
    source = write_model(tmp_path / "source")

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(disk, "copy", full)
    error = error_of(take, store, source)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert (error.kind, error.data["needed"]) == ("InsufficientDisk", size)
    assert error.data["available"] > 0
    assert whole(store) == []


@pytest.mark.skipif(sys.platform != "linux", reason="this call is Linux only")
def test_a_folder_is_cloned_where_the_file_system_clones_open_files(store, tmp_path, monkeypatch):
    """As on btrfs and XFS; here the call is played by a copy."""
    cloned = []

    def ioctl(target, request, source):
        if request != 0x40049409 or len(cloned) == 3:
            raise OSError(errno.EOPNOTSUPP, "not here")
        size = os.fstat(source).st_size
        cloned.append(os.sendfile(target, source, 0, size))
        return 0

    monkeypatch.setattr(disk.fcntl, "ioctl", ioctl)
    monkeypatch.setattr(disk.shutil, "copyfileobj", copied := Counting(shutil.copyfileobj))
    take(store, write_model(tmp_path / "source"))
    assert whole(store) == ["mine"]
    assert (len(cloned), copied.calls) == (3, 2), "what cannot be cloned is copied"
