"""Imports from a folder or a Hugging Face cache, without a second copy where nobody can edit the first."""

import errno
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host.request import model_files
from locara_sidecar.machine.macos import darwin
from locara_sidecar.machine.processes import trees
from locara_sidecar.models.cache import collect, disk
from locara_sidecar.models.cache.digest import model_digest
from locara_sidecar.models.cache.store import DerivedFrom, Store
from locara_sidecar.models.checks import check
from locara_sidecar.models.checks.verify import verify, verify_folder
from locara_sidecar.models.imports.importing import import_model
from locara_sidecar.models.worker import _shown
from support.evil import making as evil
from support.model_store import REVISION, WEIGHTS, entry_for, error_of, hf_cache, take, whole, write_model


class Counting:
    def __init__(self, real):
        self.real = real
        self.calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.real(*arguments)


def test_a_folder_is_copied_because_its_files_may_be_edited(store, tmp_path):
    source = write_model(tmp_path / "source", extra={"notes.py": b"x", ".cache/x": b"y"})
    entry = take(store, source)
    assert whole(store) == ["mine"]
    assert (entry.folder / WEIGHTS).stat().st_ino != (source / WEIGHTS).stat().st_ino
    assert entry.meta.source[0].imported
    (source / WEIGHTS).write_bytes(b"edited")
    assert whole(store) == ["mine"]


def test_a_folder_is_cloned_where_the_system_clones_by_name(store, tmp_path, monkeypatch):
    """As on APFS; here a copy simulates clonefile."""
    cloned = []

    class Library:
        def __init__(self, *_, **__):
            def clonefile(source, target, flags):
                if len(cloned) == 3:
                    return -1  # what is left lies on another volume
                cloned.append((os.fsdecode(source), flags))
                shutil.copyfile(source, target)
                return 0

            self.clonefile = clonefile

    monkeypatch.setattr(disk.sys, "platform", "darwin")
    monkeypatch.setattr(darwin.ctypes, "CDLL", Library)
    source = write_model(tmp_path / "source")
    take(store, source)
    assert whole(store) == ["mine"]
    assert len({path for path, _ in cloned if path.startswith(str(source))}) == 3
    assert {flags for _, flags in cloned} == {0}


def test_a_link_in_a_plain_folder_is_refused(store, tmp_path):
    source = write_model(tmp_path / "source", extra={"transformer/config.json": None})
    (tmp_path / "secret.json").write_text("{}")
    (source / "transformer" / "config.json").symlink_to(tmp_path / "secret.json")
    error = error_of(take, store, source)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "transformer/config.json")
    assert whole(store) == []


@pytest.mark.timeout(30)  # opening it would block forever
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("path", ["transformer/config.json", WEIGHTS])
def test_a_pipe_in_a_folder_is_refused(store, tmp_path, path):
    source = write_model(tmp_path / "source")
    (source / path).unlink()
    os.mkfifo(source / path)
    error = error_of(take, store, source)
    assert (error.kind, error.data["file"]) == ("IntegrityError", path)
    assert "not a regular file" in error.message  # found before anything is opened
    repository = hf_cache(tmp_path / "hub", write_model(tmp_path / "other"))
    os.mkfifo(repository / "snapshots" / REVISION / "transformer" / "more.json")
    error = error_of(take, store, repository)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "transformer/more.json")
    assert whole(store) == []


@pytest.mark.skipif(os.name != "posix", reason="sparse files and links of POSIX")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("where", ["folder", "cache"])
@pytest.mark.parametrize("path", ["text_encoder/config.json", "tokenizer/merges.txt", WEIGHTS])
def test_a_file_that_is_refused_for_its_length_is_not_copied_first(store, tmp_path, where, path, monkeypatch):
    """A sparse file costs its author nothing, but copying it takes minutes and fills the disk."""
    source = write_model(tmp_path / "source", extra={"tokenizer/merges.txt": b"a b"})
    os.truncate(source / path, 16 << 30)
    if where == "cache":
        repository = tmp_path / "hub" / "models--org--mine"
        (repository / "blobs").mkdir(parents=True)
        for number, file in enumerate(sorted(file for file in source.rglob("*") if file.is_file())):
            file.rename(repository / "blobs" / f"{number}")
            link = repository / "snapshots" / REVISION / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(repository / "blobs" / f"{number}")
        source = repository
    monkeypatch.setattr(disk, "copy", None)
    error = error_of(take, store, source)
    assert (error.kind, error.data["file"]) == ("IntegrityError", path)
    assert whole(store) == []


def test_a_file_that_becomes_malformed_while_it_is_copied_is_refused(store, tmp_path, monkeypatch):
    source = write_model(tmp_path / "source")
    real = disk.copy

    def spoiling(old, new):
        if old.name == "config.json":
            old.write_bytes(b"no JSON")
        real(old, new)

    monkeypatch.setattr(disk, "copy", spoiling)
    error = error_of(take, store, source)
    assert (error.kind, error.data["file"].rpartition("/")[2]) == ("IntegrityError", "config.json")
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


def test_a_model_that_was_copied_out_of_another_cache_is_the_same_model(store, tmp_path):
    """``models get`` names its folder, and README says to copy the model's folder where there is no network."""
    there = take(Store(tmp_path / "other"), write_model(tmp_path / "source"))
    copied = shutil.copytree(there.folder, tmp_path / "stick" / "my model")
    entry = take(store, copied)
    assert (entry.key, entry.meta.files) == (there.key, there.meta.files)
    assert take(store, there.folder).key == there.key  # and again, from the cache itself


def test_a_meta_file_that_is_not_the_stores_is_refused(store, tmp_path):
    source = write_model(tmp_path / "source", extra={"meta.json": b'{"digest": "sha256:' + b"0" * 64 + b'"}'})
    error = error_of(lambda: take(store, source))
    assert (error.kind, error.data["file"]) == ("IntegrityError", "meta.json")


def test_a_prepared_form_that_was_copied_is_no_model(store, tmp_path):
    there = take(Store(tmp_path / "other"), write_model(tmp_path / "source"))
    made = DerivedFrom(
        digest=there.meta.digest, model="mine", engine="mlx", quantization="8bit", precision="float16", layout=1
    )
    meta = msgspec.structs.replace(there.meta, ids=[], derived_from=made)
    copied = Path(shutil.copytree(there.folder, tmp_path / "stick"))
    (copied / "meta.json").write_bytes(msgspec.json.encode(meta))
    error = error_of(lambda: take(store, copied))
    assert (error.kind, error.data["file"]) == ("IntegrityError", "meta.json")
    assert "prepared form" in error.message


def test_what_is_no_model_is_a_bad_parameter(store, tmp_path):
    error = error_of(take, store, tmp_path)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.from")


@pytest.mark.parametrize("kind", ["folder", "cache"])
def test_the_disk_is_checked_before_an_import_that_copies(store, tmp_path, monkeypatch, kind):
    source = write_model(tmp_path / "source")
    monkeypatch.setattr(disk, "available", lambda _: 1000)
    if kind == "cache":  # takes no space
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
    """As on btrfs and XFS; here a copy simulates the call."""
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


# --- one is installed already ------------------------------------------------------------------


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder", "random bytes"])
def test_what_is_no_model_is_an_error_whatever_is_installed(store, tmp_path, what):
    take(store, write_model(tmp_path / "source"))
    folder = tmp_path / "other"
    if what == "a file":
        folder.write_bytes(os.urandom(100))
    elif what != "nothing":
        folder.mkdir()
        if what == "random bytes":
            (folder / "model.safetensors").write_bytes(os.urandom(100))
    error = error_of(take, store, folder)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.from")
    assert whole(store) == ["mine"]


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_the_very_model_that_is_installed_is_answered_as_it_is(store, tmp_path, where):
    source = write_model(tmp_path / "source")
    first = take(store, source)
    again = take(store, source if where == "folder" else hf_cache(tmp_path / "hub", source))
    assert (again.key, again.meta.installed, again.meta.source) == (first.key, first.meta.installed, first.meta.source)
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize("change", ["bytes", "files"])
def test_another_model_is_not_said_to_be_installed_and_replaces_only_where_that_is_asked_for(store, tmp_path, change):
    first = take(store, write_model(tmp_path / "source"))
    extra = {"notes.txt": b"more"} if change == "files" else {}
    other = write_model(tmp_path / "other", seed=0 if extra else 1, extra=extra)
    error = error_of(take, store, other)
    assert (error.kind, error.data["errno"], error.data["digest"]) == ("StorageError", "EEXIST", first.meta.digest)
    assert "--replace" in error.message
    assert store.find("mine").key == first.key

    second = import_model(store, entry_for(), other, lambda _: None, replace=True)
    assert store.find("mine").key == second.key != first.key
    assert [entry.key for entry in store.entries()] == [second.key]
    assert whole(store) == ["mine"]


def test_what_cannot_be_imported_replaces_nothing(store, tmp_path):
    first = take(store, write_model(tmp_path / "source"))
    broken = write_model(tmp_path / "broken", extra={WEIGHTS: b"\x80\x04 a pickle"})
    with pytest.raises(RpcError, match="malformed"):
        import_model(store, entry_for(), broken, lambda _: None, replace=True)
    assert store.find("mine").key == first.key
    assert whole(store) == ["mine"]


def test_a_model_in_use_is_replaced_for_the_next_and_stays_for_its_user(store, tmp_path):
    first = take(store, write_model(tmp_path / "source"))
    lock = store.use(first.key)
    second = import_model(store, entry_for(), write_model(tmp_path / "other", seed=1), lambda _: None, replace=True)
    assert store.find("mine").key == second.key
    assert store.entry(first.key).meta.ids == []
    collect.execute(store, collect.plan_gc(store))
    assert (first.folder / WEIGHTS).exists()
    lock.release()
    collect.execute(store, collect.plan_gc(store))
    assert [entry.key for entry in store.entries()] == [second.key]
    assert whole(store) == ["mine"]


def test_an_alias_keeps_what_was_replaced_under_another_id(store, tmp_path):
    first = take(store, write_model(tmp_path / "source"))
    take(store, tmp_path / "source", entry_for("alias"))
    import_model(store, entry_for(), write_model(tmp_path / "other", seed=1), lambda _: None, replace=True)
    assert store.entry(first.key).meta.ids == ["alias"]
    assert whole(store) == ["alias", "mine"]


def test_a_part_of_a_folder_that_may_not_be_read_is_told_and_not_taken_for_missing(store, tmp_path, monkeypatch):
    source = write_model(tmp_path / "source")
    honest = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("transformer"):
            raise PermissionError(errno.EACCES, "no", os.fspath(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)
    error = error_of(take, store, source)
    assert (error.kind, error.data["errno"]) == ("StorageError", "EACCES")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file systems take only UTF-8")
def test_a_file_whose_name_is_no_utf8_is_refused_by_a_name_that_can_be_told(store, tmp_path):
    folder = write_model(tmp_path / "mine")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{}")
    error = error_of(import_model, store, entry_for(), folder, lambda _: None)
    assert (error.kind, error.data["file"]) == ("IntegrityError", "?.json")
    model = import_model(store, entry_for(), write_model(tmp_path / "whole"), lambda _: None)
    Path(os.fsdecode(os.fsencode(model.folder) + b"/\xff.json")).write_text("{}")
    error = error_of(verify, store, model, "mine", lambda _: None)
    assert (error.kind, error.data["files"]) == ("IntegrityError", ["?.json"])
    assert _shown({"files": ["\udcff", 7], "\udcfe": None}) == {"files": ["?", 7], "?": None}


@pytest.mark.parametrize("how", ["deep", "wide"])
def test_folders_without_end_are_refused_and_no_model_of_the_hosts_is_harmed_by_them(
    store, tmp_path, monkeypatch, how, request
):
    folder = write_model(tmp_path / "mine")
    request.addfinalizer(lambda: trees.remove_tree(folder))  # sessions later, pytest would fail at something so deep
    if how == "deep":
        evil.deep(folder, folder)
    else:
        monkeypatch.setattr(check, "MAX_FILES", 50)
        for number in range(check.MAX_FILES):
            (folder / str(number)).mkdir()
    error = error_of(import_model, store, entry_for(), folder, lambda _: None)
    assert (error.kind, "too many folders" in error.message) == ("IntegrityError", True)
    assert model_files(folder) == [str(folder)]
    assert model_digest(folder).startswith("sha256:")
    assert verify_folder(store, folder, "mine", lambda _: None)[1] == 5
    trees.remove_tree(folder)
    assert not folder.exists()
