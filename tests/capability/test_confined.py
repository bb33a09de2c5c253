"""Saving into a granted folder: what is published, what is refused, and that a refusal changes nothing."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files.confined import ConfinedFolder
from locara_sidecar.capability.files.system import AVAILABLE
from support.granted_folders import ESCAPES, KINDS, ODD, RESOLUTIONS, NoSync, grant_for, open_folder, tree

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this system cannot open files relative to a folder")
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="this strategy is Linux only")
STRATEGIES = [
    pytest.param(
        (resolution, kind),
        id=f"{resolution}-{kind}",
        marks=LINUX_ONLY if (resolution, kind) != ("walk", "named") else (),
    )
    for resolution in RESOLUTIONS
    for kind in KINDS
]


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    return folder


def save(
    root: Path, strategy: tuple[str, str], path: str, data: bytes = b"new", on_conflict: Any = "rename", **more: Any
) -> Any:
    with open_folder(root, *strategy) as folder:
        return folder.save(path, data, on_conflict, **more)


def refused(root: Path, strategy: tuple[str, str], path: str, on_conflict: Any = "rename", **more: Any) -> RpcError:
    before = tree(root.parent)
    with pytest.raises(RpcError) as raised:
        save(root, strategy, path, on_conflict=on_conflict, **more)
    assert tree(root.parent) == before
    return raised.value


def test_a_file_is_saved_whole_with_its_folders(root: Path, strategy: tuple[str, str]):
    data = os.urandom(3_000_000)
    saved = save(root, strategy, "a/b/picture.png", data)
    assert saved.path == str(root / "a/b/picture.png")
    assert saved.relative_path == "a/b/picture.png"
    assert tree(root) == {"a": None, "a/b": None, "a/b/picture.png": data}
    assert save(root, strategy, "a/b/empty.png", b"").relative_path == "a/b/empty.png"


def test_it_syncs_for_real_by_default(root: Path):
    with ConfinedFolder(grant_for(root)) as folder:
        assert Path(folder.save("a/b.png", b"data", "rename").path).read_bytes() == b"data"


class Watched(NoSync):
    """Records, in order, what is synced to disk and what gets a name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def write(self, fd: int, data: memoryview) -> int:
        self.seen.append("write")
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self.seen.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync file")

    def link_anonymous(self, fd: int, name: str, parent: int) -> None:
        self.seen.append("publish")
        super().link_anonymous(fd, name, parent)

    def rename_new(self, old: str, new: str, parent: int) -> None:
        self.seen.append("publish")
        super().rename_new(old, new, parent)

    def rename_over(self, old: str, new: str, parent: int) -> None:
        self.seen.append("publish")
        super().rename_over(old, new, parent)


@pytest.mark.parametrize("on_conflict", ["rename", "error", "overwrite"])
def test_bytes_are_on_the_disk_before_their_name_is_and_the_name_before_it_is_told(
    root: Path, strategy: tuple[str, str], on_conflict: Any
):
    system = Watched()
    grant, (resolution, kind) = grant_for(root), strategy
    with ConfinedFolder(grant, resolution=resolution, temporary=kind, system=system) as folder:
        for _ in range(2 if on_conflict != "error" else 1):
            system.seen.clear()
            folder.save("a.png", b"data", on_conflict)
            assert system.seen[:2] == ["write", "sync file"]
            assert system.seen[2] == "publish"
            assert system.seen[-1] == "sync folder"


def test_a_taken_name_is_numbered(root: Path, strategy: tuple[str, str]):
    saved = [save(root, strategy, "a.png", bytes([number])).relative_path for number in range(3)]
    assert saved == ["a.png", "a-2.png", "a-3.png"]
    assert tree(root) == {"a.png": b"\0", "a-2.png": b"\1", "a-3.png": b"\2"}


def test_a_taken_name_is_an_error_where_asked(root: Path, strategy: tuple[str, str]):
    save(root, strategy, "a.png", b"old", "error")
    error = refused(root, strategy, "a.png", "error")
    assert (error.kind, error.data["errno"], error.retryable) == ("StorageError", "EEXIST", False)


def test_overwriting_replaces_a_file_and_keeps_its_permissions(root: Path, strategy: tuple[str, str]):
    assert save(root, strategy, "a.png", b"old", "overwrite").relative_path == "a.png"
    (root / "a.png").chmod(0o600)
    save(root, strategy, "a.png", b"new", "overwrite")
    assert tree(root) == {"a.png": b"new"}
    assert (root / "a.png").stat().st_mode & 0o777 == 0o600


def test_overwriting_replaces_nothing_but_a_writable_file(root: Path, strategy: tuple[str, str]):
    (root / "folder.png").mkdir()
    (root.parent / "outside/victim.png").write_bytes(b"mine")
    (root / "link.png").symlink_to("../outside/victim.png")
    (root / "dangling.png").symlink_to("../outside/none.png")
    (root / "kept.png").write_bytes(b"old")
    (root / "kept.png").chmod(0o444)
    os.mkfifo(root / "fifo.png")
    expected = {"folder": "EISDIR", "link": "ELOOP", "dangling": "ELOOP", "kept": "EACCES", "fifo": "EINVAL"}
    assert {name: refused(root, strategy, f"{name}.png", "overwrite").data["errno"] for name in expected} == expected


def test_a_link_in_the_way_of_a_new_file_is_numbered_past(root: Path, strategy: tuple[str, str]):
    (root / "a.png").symlink_to("../outside/new.png")
    assert save(root, strategy, "a.png").relative_path == "a-2.png"
    assert not (root.parent / "outside/new.png").exists()


def test_a_link_to_a_folder_is_never_followed(root: Path, strategy: tuple[str, str]):
    (root / "out").symlink_to("../outside")
    (root / "self").symlink_to(".")
    (root / "absolute").symlink_to(root.parent / "outside")
    for path in ("out/a.png", "self/a.png", "absolute/new/a.png"):
        error = refused(root, strategy, path)
        assert (error.kind, error.data["errno"]) == ("StorageError", "ELOOP")


def test_a_file_is_not_a_folder(root: Path, strategy: tuple[str, str]):
    (root / "file").write_bytes(b"")
    os.mkfifo(root / "fifo")
    assert refused(root, strategy, "file/a.png").data["errno"] == "ENOTDIR"
    assert refused(root, strategy, "fifo/a.png").data["errno"] == "ENOTDIR"


def test_nothing_of_the_corpus_touches_the_disk(root: Path, strategy: tuple[str, str]):
    for path in ESCAPES + ODD:
        assert refused(root, strategy, path).kind == "InvalidParams"


def test_equal_unicode_names_are_one_name(root: Path, strategy: tuple[str, str]):
    save(root, strategy, "e\u0301.png")
    assert save(root, strategy, "\u00e9.png").relative_path == "\u00e9-2.png"


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_new_files_have_the_umask_of_the_user(root: Path, strategy: tuple[str, str], mask: int, file: int, folder: int):
    before = os.umask(mask)
    try:
        save(root, strategy, "a/b.png")
    finally:
        os.umask(before)
    assert ((root / "a/b.png").stat().st_mode & 0o777, (root / "a").stat().st_mode & 0o777) == (file, folder)


def test_a_cancelled_save_leaves_nothing(root: Path, strategy: tuple[str, str]):
    for asked in range(4):
        answers = iter([False] * asked + [True])
        error = refused(
            root, strategy, "a/b.png", data=bytes(1_500_000), cancelled=lambda answers=answers: next(answers)
        )
        assert error.kind == "RequestCancelled"


@pytest.mark.parametrize(("make", "name"), [(None, "ENOENT"), (b"", "ENOTDIR")])
def test_a_granted_folder_that_is_not_there_is_a_storage_error(tmp_path: Path, make: bytes | None, name: str):
    if make is not None:
        (tmp_path / "gone").write_bytes(make)
    with pytest.raises(RpcError) as raised:
        open_folder(tmp_path / "gone")
    assert (raised.value.kind, raised.value.data["errno"]) == ("StorageError", name)
    assert str(tmp_path) not in raised.value.message


def test_the_granted_folder_itself_may_be_a_link_and_is_held(root: Path):
    link = root.parent / "link"
    link.symlink_to(root)
    with open_folder(link) as folder:
        link.unlink()
        link.symlink_to(root.parent / "outside")
        folder.save("a.png", b"x", "rename")
    assert tree(root) == {"a.png": b"x"}
    assert tree(root.parent / "outside") == {}


def test_a_closed_folder_saves_nothing(root: Path):
    folder = open_folder(root)
    folder.close()
    folder.close()
    with pytest.raises(RpcError) as raised:
        folder.save("a.png", b"x", "rename")
    assert raised.value.data["errno"] == "EBADF"


@LINUX_ONLY
def test_a_full_disk_is_told_with_its_numbers(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system can be mounted by the administrator only")
    try:
        for kind in KINDS:
            with open_folder(disk, "walk", kind) as folder:
                with pytest.raises(RpcError) as raised:
                    folder.save("a/b.png", bytes(2 << 20), "rename")
                assert raised.value.kind == "InsufficientDisk"
                assert raised.value.data["needed"] == 2 << 20
                assert raised.value.data["available"] <= 1 << 20
                assert tree(disk) == {}
                folder.save("a/b.png", bytes(1 << 19), "rename")
            (disk / "a/b.png").unlink()
            (disk / "a").rmdir()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_without_openat2_folders_are_walked(root: Path):
    class Old(NoSync):
        def open_beneath(self, path: str, parent: int) -> int:
            raise PermissionError(1, "forbidden by a filter")

    with open_folder(root, system=Old()) as folder:
        assert folder.save("a/b/c.png", b"x", "rename").relative_path == "a/b/c.png"
