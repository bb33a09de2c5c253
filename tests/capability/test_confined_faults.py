"""Each system call of saving fails in turn: a typed error, nothing half done or left over, no leaked descriptor."""

import errno
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files import held, temporary
from locara_sidecar.machine import disk_space
from support.granted_folders import KINDS, RESOLUTIONS, Faulty, NoSync, open_folder, tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="both strategies are there on Linux only")

NEW = b"new" * 1000
OLD = b"old"
EVERY_KIND = (*KINDS, "claimed")
WAYS = list(
    itertools.product(RESOLUTIONS, EVERY_KIND, ("rename", "error", "overwrite"), ("new", "new/folder/new", "taken"))
)


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
            # a refused link only means that another kind of file is tried; here there is no other
            others = ("EEXIST", "ENOTSUP") if number == errno.EACCES else ("EEXIST",)
            assert result.data["errno"] in (errno.errorcode[number], *others), name
        if way[2:] == ("overwrite", "taken") and name == "sync" and after != before:
            assert after == {"taken": NEW}  # replaced as a whole; only the sync of the folder failed
        else:
            assert after == before, name
    assert refused >= (3 if way[1] == "claimed" else 4)  # nothing is written if the name is taken


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC], ids=lambda number: errno.errorcode[number])
def test_the_message_says_in_which_way_the_disk_is_full(tmp_path: Path, monkeypatch: Any, number: int):
    monkeypatch.setattr(disk_space, "_no_more_files", lambda _: True)
    way, counted = ("auto", "named", "rename", "new"), Faulty()
    for name in ("dry", "full"):
        prepare(tmp_path / name)
    attempt(tmp_path / "dry", way, counted)
    result = attempt(tmp_path / "full", way, Faulty(counted.calls.index("write"), number))
    assert isinstance(result, RpcError)
    assert result.kind == "InsufficientDisk"
    assert {errno.EDQUOT: "quota", errno.ENOSPC: "inodes"}[number] in result.message


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_short_writes_are_continued(tmp_path: Path, kind: str):
    class Short(NoSync):
        def write(self, fd: int, data: memoryview) -> int:
            return super().write(fd, data[: 1 + len(data) // 3])

    with open_folder(tmp_path, kind=kind, system=Short()) as folder:
        folder.save("a.png", NEW, "error")
    assert tree(tmp_path) == {"a.png": NEW}


@pytest.mark.parametrize("kind", EVERY_KIND)
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
    """A file system that lacks some calls."""

    def __init__(self, *missing: str, number: int = errno.EOPNOTSUPP) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, "not here")

        for name in missing:
            setattr(self, name, fail)


@pytest.mark.parametrize(
    "missing",
    [("create_anonymous",), ("link_anonymous", "link_named"), ("create_anonymous", "rename_new")],
    ids="-".join,
)
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_a_file_system_that_lacks_calls_is_served_by_others(tmp_path: Path, missing: tuple[str, ...], number: int):
    """A program's confinement may refuse them, too, as AppArmor does of links."""
    with open_folder(tmp_path, system=Lacking(*missing, number=number)) as folder:
        assert folder.save("a.png", b"1", "rename").relative_path == "a.png"
        assert folder.save("a.png", b"2", "rename").relative_path == "a-2.png"
        assert folder.save("a.png", b"3", "overwrite").relative_path == "a.png"
    assert tree(tmp_path) == {"a.png": b"3", "a-2.png": b"2"}


EXFAT = ("create_anonymous", "link_anonymous", "link_named", "rename_new")
"""The calls that exFAT and SMB lack on macOS. Only there must a name be taken before anything is written to it."""


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM, errno.EACCES], ids=errno.errorcode.get)
def test_without_exclusive_renames_and_hard_links_a_save_works_and_overwrites_nothing(tmp_path: Path, number: int):
    with open_folder(tmp_path, system=Lacking(*EXFAT, number=number)) as folder:
        assert folder.save("a.png", b"1", "rename").relative_path == "a.png"
        assert folder.save("a.png", b"2", "rename").relative_path == "a-2.png"
        with pytest.raises(RpcError) as raised:
            folder.save("a.png", b"3", "error")
        assert raised.value.data["errno"] == "EEXIST"
        assert tree(tmp_path) == {"a.png": b"1", "a-2.png": b"2"}
        assert folder.save("a.png", b"4", "overwrite").relative_path == "a.png"
        assert folder.save("new/b.png", b"5", "overwrite").relative_path == "new/b.png"
    assert tree(tmp_path) == {"a.png": b"4", "a-2.png": b"2", "new": None, "new/b.png": b"5"}


def test_a_file_system_that_counts_no_links_makes_none(tmp_path: Path):
    class Uncounting(Lacking):
        def link_named(self, old: str, new: str, parent: int) -> None:
            raise FileNotFoundError(errno.ENOENT, "it has no name, the kernel thinks")

    with open_folder(tmp_path, system=Uncounting("create_anonymous", "rename_new")) as folder:
        assert folder.save("a.png", b"1", "rename").relative_path == "a.png"
    assert tree(tmp_path) == {"a.png": b"1"}


def test_a_save_that_fails_there_takes_its_name_back_and_nobody_else_s(tmp_path: Path):
    class Failing(Lacking):
        def write(self, fd: int, data: memoryview) -> int:
            if not (tmp_path / "a.png").exists():  # it still has a hidden name
                return super().write(fd, data)
            (tmp_path / "other.png").write_bytes(OLD)
            raise OSError(errno.EIO, "broken")

    with open_folder(tmp_path, system=Failing(*EXFAT)) as folder, pytest.raises(RpcError) as raised:
        folder.save("a.png", NEW, "rename")
    assert raised.value.data["errno"] == "EIO"
    assert tree(tmp_path) == {"other.png": OLD}


def test_where_the_name_need_not_be_taken_first_it_is_not(tmp_path: Path):
    seen = []

    class Watched(Lacking):
        def write(self, fd: int, data: memoryview) -> int:
            seen.append([name for name in tree(tmp_path) if not name.startswith(".")])
            return super().write(fd, data)

    for missing in ((), ("create_anonymous",), ("create_anonymous", "rename_new"), ("create_anonymous", "link_named")):
        with open_folder(tmp_path, system=Watched(*missing)) as folder:
            folder.save("a.png", b"1", "overwrite")
    assert seen[0] == []
    (tmp_path / "a.png").unlink()
    with open_folder(tmp_path, system=Watched("create_anonymous", "rename_new")) as folder:
        folder.save("a.png", b"1", "error")
    assert seen[-1] == []


@pytest.mark.parametrize(("platform", "number", "told"), [
    ("darwin", errno.EPERM, True), ("darwin", errno.EACCES, False), ("linux", errno.EPERM, False),
])  # fmt: skip
def test_where_macos_keeps_a_folder_from_an_app_the_settings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, number: int, told: bool
):
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    def message(call: str) -> str:
        system = NoSync()
        setattr(system, call, refuse)
        with pytest.raises(RpcError) as raised, open_folder(tmp_path, "walk", "named", system) as folder:
            folder.save("a.png", NEW, "error")
        assert raised.value.data["errno"] == errno.errorcode[number]
        return raised.value.message

    monkeypatch.setattr(held.sys, "platform", platform)
    for call in ("open_root", "create_named"):
        assert ("System Settings" in message(call)) is told, call
