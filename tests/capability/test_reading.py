"""Reading below a granted folder: only regular files, never a link, a pipe, a device or anything outside."""

import errno
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files.reading import ReadableFolder
from locara_sidecar.capability.files.system import AVAILABLE
from support.granted_folders import RESOLUTIONS, Faulty, grant_for, read_grant_for

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this system cannot open files relative to a folder")
AT = "$.image.path"
LIMIT = 1 << 22


@pytest.fixture(
    params=[
        pytest.param(
            resolution,
            marks=()
            if resolution == "walk"
            else pytest.mark.skipif(sys.platform != "linux", reason="this call is Linux only"),
        )
        for resolution in RESOLUTIONS
    ]
)
def resolution(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A granted folder with a picture in it, and another picture outside."""
    folder = tmp_path / "root"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/picture.png").write_bytes(b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/picture.png").write_bytes(b"outside")
    return folder


def read(root: Path, resolution: Any, path: str, limit: int = LIMIT, system: Any = None) -> bytes:
    with ReadableFolder(read_grant_for(root), resolution=resolution, system=system) as folder:
        file = folder.open(path, AT)
    try:
        return file.read(limit)
    finally:
        file.close()


def refused(root: Path, resolution: Any, path: str, **more: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        read(root, resolution, path, **more)
    assert caught.value.data["path"] == AT
    return caught.value


def test_a_file_is_read_whole_however_it_is_found(root: Path, resolution: str):
    data = os.urandom(3_000_000)
    (root / "large.png").write_bytes(data)
    assert read(root, resolution, "large.png") == data
    assert read(root, resolution, "a/b/picture.png") == b"inside"
    assert read(root, "auto", "a/b/picture.png") == b"inside"


@pytest.mark.parametrize("name", ["Ünïcode – 湖.png", "cafe\u0301.png", ".hidden.png", "a b .png ", "con.png", "x:y"])
def test_a_file_that_is_there_may_have_any_name_that_leads_down(root: Path, resolution: str, name: str):
    (root / name).write_bytes(b"odd")
    assert read(root, resolution, name) == b"odd"


@pytest.mark.parametrize(
    "path",
    [
        "", "..", ".", "../outside/picture.png", "a/../../outside/picture.png", "a/./b/picture.png", "/etc/hostname",
        "a//b/picture.png", "a/b/picture.png/", "a\0.png", "a/..\u200d/x", "x" * 256, "d/" * 40 + "x",
        "é/" * 2000 + "x",
    ],
)  # fmt: skip
def test_a_path_that_could_lead_out_is_a_bad_parameter(root: Path, resolution: str, path: str):
    assert refused(root, resolution, path).kind == "InvalidParams"


def test_links_are_never_followed_wherever_they_lead(root: Path, resolution: str):
    links = {
        "file.png": "../outside/picture.png",
        "absolute.png": root.parent / "outside/picture.png",
        "inside.png": "a/b/picture.png",
        "dangling.png": "nowhere",
        "folder": "../outside",
        "self": ".",
        "magic": "/proc/self/cwd",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    names = [name for name in links if name.endswith(".png")]
    for path in (*names, "folder/picture.png", "self/a/b/picture.png", "magic/x"):
        error = refused(root, resolution, path)
        assert (error.kind, error.data["errno"], error.retryable) == ("StorageError", "ELOOP", False), path


def test_what_is_no_regular_file_is_refused_at_once(root: Path, resolution: str, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(root / "pipe.png")
    monkeypatch.chdir(root)  # a socket's path may be about a hundred bytes long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        started = time.monotonic()
        expected = {"pipe.png": "EINVAL", "socket.png": "EINVAL", "a/b": "EISDIR", "none.png": "ENOENT"}
        expected |= {"none/x.png": "ENOENT", "a/b/picture.png/x": "ENOTDIR"}
        assert {path: refused(root, resolution, path).data["errno"] for path in expected} == expected
        assert time.monotonic() - started < 2


class Fooled(Faulty):
    """The file's status says regular file, but by the time it is opened it is something else."""

    def __init__(self, regular: Path) -> None:
        super().__init__()
        self._regular = regular

    def status(self, name: str, parent: int) -> os.stat_result:
        return os.stat(self._regular)


def test_a_pipe_that_takes_a_files_place_after_the_look_does_not_block(root: Path, resolution: str):
    os.mkfifo(root / "pipe.png")
    system = Fooled(root / "a/b/picture.png")
    outcome: list[RpcError] = []
    thread = threading.Thread(
        target=lambda: outcome.append(refused(root, resolution, "pipe.png", system=system)), daemon=True
    )
    thread.start()
    thread.join(5)
    assert [error.data["errno"] for error in outcome] == ["EINVAL"]


def test_a_link_that_takes_a_files_place_after_the_look_is_not_followed(root: Path, resolution: str):
    (root / "link.png").symlink_to("../outside/picture.png")
    assert refused(root, resolution, "link.png", system=Fooled(root / "a/b/picture.png")).data["errno"] == "ELOOP"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused_without_being_opened(root: Path, resolution: str):
    with suppress(PermissionError):
        os.mknod(root / "zero.png", 0o20666, os.makedev(1, 5))
    if not (root / "zero.png").exists():
        pytest.skip("devices cannot be made here")
    system = Faulty()
    assert refused(root, resolution, "zero.png", system=system).data["errno"] == "EINVAL"
    assert "open_read" not in system.calls


def test_a_file_over_the_limit_is_an_invalid_image_however_it_grows(root: Path, resolution: str):
    (root / "exact.png").write_bytes(b"x" * 1000)
    assert len(read(root, resolution, "exact.png", limit=1000)) == 1000
    error = refused(root, resolution, "exact.png", limit=999)
    assert (error.kind, error.data["maxBytes"]) == ("InvalidImage", 999)
    with ReadableFolder(read_grant_for(root), resolution=resolution) as folder:
        file = folder.open("exact.png", AT)
    with (root / "exact.png").open("ab") as more:
        more.write(b"y")
    with pytest.raises(RpcError) as caught:
        file.read(1000)
    file.close()
    assert caught.value.kind == "InvalidImage"


def test_a_huge_sparse_file_is_refused_unread(root: Path, resolution: str):
    with (root / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    system = Faulty()
    refused(root, resolution, "huge.png", limit=5_000_000, system=system)
    assert "read" not in system.calls


def test_a_file_that_grows_without_end_is_read_to_the_limit_only(root: Path, resolution: str):
    class Growing(Faulty):
        given = 0

        def read(self, fd: int, size: int, offset: int) -> bytes:
            self.given += 1000
            return b"x" * min(size, 1000)

    system = Growing()
    refused(root, resolution, "a/b/picture.png", limit=50_000, system=system)
    assert system.given <= 51_000
    # the real call, too, may return less than it was asked for
    (root / "slow.png").write_bytes(b"y" * 2500)

    class Short(Faulty):
        def read(self, fd: int, size: int, offset: int) -> bytes:
            return os.pread(fd, min(size, 1000), offset)

    assert read(root, resolution, "slow.png", system=Short()) == b"y" * 2500


def test_what_was_opened_is_read_whatever_becomes_of_its_name(root: Path, resolution: str):
    picture = root / "a/b/picture.png"
    with ReadableFolder(read_grant_for(root), resolution=resolution) as folder:
        file = folder.open("a/b/picture.png", AT)
    picture.unlink()
    picture.symlink_to("../../../outside/picture.png")
    assert file.head(3) == b"ins"
    assert file.read(LIMIT) == b"inside"
    file.close()
    file.close()


def test_a_grant_to_write_opens_nothing_for_reading(root: Path):
    with pytest.raises(TypeError):
        ReadableFolder(grant_for(root))
    with pytest.raises(TypeError):
        ReadableFolder(str(root))  # type: ignore[arg-type]


def test_a_granted_folder_that_is_gone_is_a_storage_error(tmp_path: Path):
    with pytest.raises(RpcError) as caught:
        ReadableFolder(read_grant_for(tmp_path / "none"))
    assert (caught.value.kind, caught.value.data["errno"]) == ("StorageError", "ENOENT")


def test_every_failing_call_is_a_typed_error_and_leaves_no_descriptor_open(root: Path, resolution: str):
    calls = Faulty()
    read(root, resolution, "a/b/picture.png", system=calls)
    before = len(os.listdir("/dev/fd"))
    for number, name in enumerate(calls.calls):
        outcome = "read"
        try:
            read(root, resolution, "a/b/picture.png", system=Faulty(number, errno.EIO))
        except RpcError as error:
            outcome = f"{error.kind} {error.data['errno']}"
        # a failing close says nothing about a file that was read; the first try of openat2 only chooses the method
        probe = name == "open_beneath" and number == 1
        assert outcome == ("read" if name == "close" or probe else "StorageError EIO"), (number, name)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_permissions_are_the_users(root: Path, resolution: str):
    (root / "secret.png").write_bytes(b"x")
    (root / "secret.png").chmod(0)
    assert refused(root, resolution, "secret.png").data["errno"] == "EACCES"
