"""Every system call of saving fails in turn: a typed error, nothing half done, nothing left, no descriptor lost."""

import errno
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability import temporary
from support.granted_folders import KINDS, RESOLUTIONS, Faulty, NoSync, open_folder, tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="both strategies are there on Linux only")

NEW = b"new" * 1000
OLD = b"old"
WAYS = list(itertools.product(RESOLUTIONS, KINDS, ("rename", "error", "overwrite"), ("new", "new/folder/new", "taken")))


@pytest.fixture(autouse=True)
def _several_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_CHUNK", 1024)


def prepare(folder: Path) -> dict[str, bytes | None]:
    folder.mkdir()
    (folder / "taken").write_bytes(OLD)
    return tree(folder)


def attempt(folder: Path, way: tuple[str, str, str, str], system: Any) -> RpcError | str:
    resolution, kind, on_conflict, path = way
    try:
        with open_folder(folder, resolution, kind, system) as confined:
            return confined.save(path, NEW, on_conflict).relative_path  # type: ignore[arg-type]
    except RpcError as error:
        return error


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES], ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_every_call_fails_in_turn(tmp_path: Path, way: tuple[str, str, str, str], number: int):
    counted = Faulty()
    prepare(tmp_path / "dry")
    attempt(tmp_path / "dry", way, counted)
    refused = 0
    for index, name in enumerate(counted.calls):
        folder = tmp_path / str(index)
        before, held = prepare(folder), descriptors()
        result = attempt(folder, way, Faulty(index, number))
        after = tree(folder)
        assert descriptors() == held, name
        if isinstance(result, str):
            assert after.pop(result) == NEW, name
            assert all(before[other] == contents for other, contents in after.items() if other in before), name
            continue
        refused += 1
        if number == errno.ENOSPC and name != "open_root" and result.data.get("errno") != "EEXIST":
            assert (result.kind, result.data["needed"]) == ("InsufficientDisk", len(NEW)), name
        else:
            assert result.kind == "StorageError", name
            assert result.data["errno"] in (errno.errorcode[number], "EEXIST"), name
        if way[2:] == ("overwrite", "taken") and name == "sync" and after != before:
            assert after == {"taken": NEW}  # replaced, whole; only the folder's own sync failed
        else:
            assert after == before, name
    assert refused >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_short_writes_are_continued(tmp_path: Path, kind: str):
    class Short(NoSync):
        def write(self, fd: int, data: memoryview) -> int:
            return super().write(fd, data[: 1 + len(data) // 3])

    with open_folder(tmp_path, kind=kind, system=Short()) as folder:
        folder.save("a.png", NEW, "error")
    assert tree(tmp_path) == {"a.png": NEW}


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_takes_nothing_is_a_full_disk(tmp_path: Path, kind: str):
    class Full(NoSync):
        def write(self, fd: int, data: memoryview) -> int:
            return 0

    with open_folder(tmp_path, kind=kind, system=Full()) as folder, pytest.raises(RpcError) as raised:
        folder.save("a.png", NEW, "error")
    assert (raised.value.kind, raised.value.data["needed"]) == ("InsufficientDisk", len(NEW))
    assert tree(tmp_path) == {}


def test_control_a_temporary_that_is_not_removed_is_noticed(tmp_path: Path):
    class Littering(NoSync):
        def unlink(self, name: str, parent: int) -> None:
            pass

        def write(self, fd: int, data: memoryview) -> int:
            raise OSError(errno.EIO, "broken")

    with open_folder(tmp_path, kind="named", system=Littering()) as folder, pytest.raises(RpcError):
        folder.save("a.png", NEW, "error")
    assert tree(tmp_path) != {}


class Lacking(NoSync):
    """A file system without some of the calls."""

    def __init__(self, *missing: str) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "not here")

        for name in missing:
            setattr(self, name, fail)


@pytest.mark.parametrize(
    "missing",
    [("create_anonymous",), ("link_anonymous", "link_named"), ("create_anonymous", "rename_new")],
    ids="-".join,
)
def test_a_file_system_that_lacks_calls_is_served_by_others(tmp_path: Path, missing: tuple[str, ...]):
    with open_folder(tmp_path, system=Lacking(*missing)) as folder:
        assert folder.save("a.png", b"1", "rename").relative_path == "a.png"
        assert folder.save("a.png", b"2", "rename").relative_path == "a-2.png"
        assert folder.save("a.png", b"3", "overwrite").relative_path == "a.png"
    assert tree(tmp_path) == {"a.png": b"3", "a-2.png": b"2"}


def test_where_nothing_is_safe_nothing_is_saved(tmp_path: Path):
    system = Lacking("link_anonymous", "link_named", "rename_new")
    with open_folder(tmp_path, system=system) as folder, pytest.raises(RpcError) as raised:
        folder.save("a.png", b"1", "rename")
    assert (raised.value.kind, raised.value.data["errno"]) == ("StorageError", "ENOTSUP")
    assert tree(tmp_path) == {}
