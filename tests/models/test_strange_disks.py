"""File systems that lack what only protects a file or makes it last: a model is installed and removed all the same.

Such are memory cards, Windows' and network file systems, those of user programs, and a container's, which renames no
folder that came with the image.
"""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files.system import System
from locara_sidecar.machine import disk_space
from locara_sidecar.models.cache import aside, collect, disk, partial
from locara_sidecar.models.checks import verify
from locara_sidecar.models.imports.importing import import_model, storage_error
from support.model_store import WEIGHTS, download, entry_for, hf_cache, take, whole, write_model

REFUSALS = [
    ("link", errno.EPERM),
    ("link", errno.EACCES),
    ("link", errno.EINVAL),
    ("link", errno.ENOENT),
    ("link", errno.EXDEV),
    ("chmod", errno.EPERM),
    ("chmod", errno.ENOTSUP),
    ("chmod", errno.ENOSYS),
    ("fsync", errno.EINVAL),
    ("fsync", errno.ENOTSUP),
    ("utime", errno.EPERM),
]


def refuse(monkeypatch, call, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refused)


@pytest.fixture(params=REFUSALS, ids=lambda case: f"{case[0]}-{errno.errorcode[case[1]]}")
def refused(request, store, monkeypatch):
    monkeypatch.setattr(disk, "_SYSTEM", System())
    refuse(monkeypatch, *request.param)


@pytest.mark.usefixtures("refused")
def test_what_a_file_system_lacks_keeps_no_model_from_being_installed(store, hub, tmp_path):
    download(store, hub)
    assert whole(store) == ["mine"]
    collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    collect.execute(store, collect.plan_gc(store, 0))
    for folder in (tmp_path / "mine", hf_cache(tmp_path / "hf", tmp_path / "mine")):
        take(store, folder)
        assert whole(store) == ["mine"]
        collect.remove(store, collect.plan_remove(store, "mine"), "mine")
        collect.execute(store, collect.plan_gc(store, 0))
    assert [path for path in store.root.rglob("*") if path.is_file() and path.parent != store.locks] == []


@pytest.mark.usefixtures("refused")
def test_what_a_file_system_lacks_keeps_no_download_from_being_resumed(store, ended):
    store.prepare()
    left = store.incoming / f"{'a' * 64}.{ended}.aa.part"
    left.write_bytes(b"begun")
    part = partial.claim(store.incoming, "a" * 64)
    assert part is not None
    assert part.size == 5
    part.close(delete=True)
    assert list(store.incoming.iterdir()) == []


def test_a_disk_that_does_not_say_how_large_it_is_is_not_full(store, hub, monkeypatch):
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=0))
    download(store, hub)
    collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    take(store, Path(hub.repositories["org/mine"].files["model_index.json"][0]).parent)
    assert whole(store) == ["mine"]


def test_a_full_disk_is_full(store, monkeypatch):
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: SimpleNamespace(total=10, used=10, free=0))
    assert disk.available(store.root) == 0


# --- folders that cannot be renamed ------------------------------------------------------------


@pytest.fixture
def image(store, tmp_path, monkeypatch):
    """A model that came with a container's image: its folders, and no others, cannot be renamed."""
    entry = take(store, write_model(tmp_path / "mine", extra={"a/b/c/d.json": b"{}"}))
    came = {path.stat().st_ino for path in (entry.folder, *entry.folder.rglob("*")) if path.is_dir()}
    rename = os.rename

    def refusing(old, new, *, src_dir_fd=None, dst_dir_fd=None):
        if os.stat(old, dir_fd=src_dir_fd, follow_symlinks=False).st_ino in came:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", refusing)
    return entry


def left(store):
    return [path for path in store.root.rglob("*") if path.is_file() and path.parent != store.locks]


def test_a_model_that_came_with_an_image_is_removed(store, image):
    collect.remove(store, collect.plan_remove(store, "mine"), "mine")
    assert left(store) == []
    assert list(store.models.iterdir()) == []
    assert list(store.incoming.iterdir()) == []


@pytest.fixture
def half_removed(store, image, monkeypatch):
    """A removal that was killed after it had hidden the model."""

    def killed(_):
        raise KeyboardInterrupt

    plan = collect.plan_remove(store, "mine")
    with monkeypatch.context() as until:
        until.setattr(aside, "empty_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            collect.remove(store, plan, "mine")
    assert store.entries() == []
    assert image.folder.is_dir()
    return image.folder


def old(folder):
    """Make all of it two days old."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    return folder


def test_what_a_killed_removal_left_of_an_images_model_is_collected(store, half_removed):
    assert old(half_removed) in collect.plan_gc(store).waste
    collect.execute(store, collect.plan_gc(store, 0))
    assert left(store) == []
    assert list(store.models.iterdir()) == []


def test_what_somebody_may_just_be_putting_back_is_not_collected(store, half_removed):
    assert half_removed not in collect.plan_gc(store).waste  # hidden a moment ago
    plan = collect.plan_gc(store) if old(half_removed) else None
    with disk.held(disk.try_lock(store.locks / half_removed.name, shared=False)):
        collect.execute(store, plan)
    with disk.held(disk.try_lock(half_removed, shared=True, create=False)):  # by whoever may only read the cache
        collect.execute(store, plan)
    assert (half_removed / WEIGHTS).exists()


def test_a_cache_that_is_just_being_copied_here_is_not_collected(store, half_removed):
    """As ``cp`` does it: the folder first, and ``meta.json`` perhaps last."""
    old(half_removed)
    os.utime(half_removed / WEIGHTS)
    assert half_removed not in collect.plan_gc(store).waste


def test_a_folder_that_cannot_be_looked_into_is_not_collected(store, half_removed, monkeypatch):
    old(half_removed)
    real = os.lstat

    def lstat(path, *args, **options):
        if os.path.basename(path) == "meta.json":
            raise PermissionError(errno.EACCES, "no")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    assert half_removed not in collect.plan_gc(store).waste


def test_what_was_installed_again_after_a_killed_removal_is_kept(store, half_removed, tmp_path):
    plan = collect.plan_gc(store) if old(half_removed) else None
    take(store, tmp_path / "mine")
    collect.execute(store, plan)
    assert whole(store) == ["mine"]


def test_a_folder_in_the_cache_that_is_no_models_is_left_alone(store, image):
    other = store.models / "notes"
    other.mkdir()
    os.utime(other, (0, 0))
    assert other not in collect.plan_gc(store, 0).waste


def test_a_model_that_came_with_an_image_is_collected(store, image):
    assert collect.execute(store, collect.plan_gc(store, 0)).models == [image]
    assert left(store) == []


def test_a_model_that_came_with_an_image_is_replaced(store, image, tmp_path):
    other = import_model(store, entry_for(), write_model(tmp_path / "o", seed=1), lambda _: None, replace=True)
    assert whole(store) == ["mine"]
    assert [path.name for path in store.models.iterdir()] == [other.key]


def test_a_damaged_model_that_came_with_an_image_is_installed_again(store, image, tmp_path):
    weights = image.folder / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(RpcError, match="transformer"):
        verify.verify(store, image, "mine", lambda _: None)
    assert store.entry(image.key).meta.damaged == [WEIGHTS]
    take(store, tmp_path / "mine")
    assert whole(store) == ["mine"]


def test_a_model_of_an_image_that_somebody_has_come_to_use_is_put_back(store, image, monkeypatch):
    marked, asked = store.marked, []

    def used_meanwhile(*arguments):
        asked.append(store.entry(image.key))
        return len(asked) == 2 or marked(*arguments)

    monkeypatch.setattr(store, "marked", used_meanwhile)
    assert collect.execute(store, collect.Plan([image], [], 0)).models == []
    assert asked == [image, None]
    assert whole(store) == ["mine"]
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize("fails", ["rmdir", "sync_folder"])
def test_a_model_that_was_put_back_is_kept_even_if_the_rest_fails(store, image, monkeypatch, fails):
    """Its folder is closed by then: under its number another one may be open."""
    marked, asked = store.marked, []

    def used_meanwhile(*arguments):
        asked.append(store.entry(image.key))
        if len(asked) == 2:
            monkeypatch.setattr(Path if fails == "rmdir" else disk, fails, failing)
            return True
        return marked(*arguments)

    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store, "marked", used_meanwhile)
    assert collect.execute(store, collect.Plan([image], [], 0)).models == []
    assert whole(store) == ["mine"]


def test_a_model_of_an_image_is_not_put_back_over_one_that_was_installed_meanwhile(store, image, tmp_path, monkeypatch):
    marked, asked = store.marked, []

    def installed_meanwhile(*arguments):
        asked.append(store.entry(image.key))
        if len(asked) == 2:
            take(store, tmp_path / "mine")
            return True
        return marked(*arguments)

    monkeypatch.setattr(store, "marked", installed_meanwhile)
    collect.execute(store, collect.Plan([image], [], 0))
    assert whole(store) == ["mine"]


def test_which_path_failed_is_told_whatever_the_paths_have_in_common(store, tmp_path, monkeypatch):
    """On Windows two drives have nothing in common; elsewhere that is so of a relative path and an absolute one."""
    monkeypatch.chdir(tmp_path)
    error = FileNotFoundError(errno.ENOENT, "none", "cache/file")
    assert disk.is_below(error, Path("cache"))
    assert not disk.is_below(error, Path("other"))
    assert not disk.is_below(FileNotFoundError(errno.ENOENT, "none", "/else"), Path("cache"))
    assert storage_error(store, error, 0).data["errno"] == "ENOENT"
