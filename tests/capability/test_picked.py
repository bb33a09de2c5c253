"""Picked files: the gate decides about each one, and only the picked file itself is read or replaced."""

import contextlib
import os
import stat
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from locara_protocol.errors import RpcError
from locara_protocol.manifest import merge
from locara_protocol.methods import METHODS
from locara_sidecar.capability.authorize import AccessRequest, Grant, Picked, Source, authorize, folder_of_pick
from locara_sidecar.capability.files import picked
from locara_sidecar.capability.files.picked import PickedFile, PickedSource, PickedTarget
from locara_sidecar.capability.policy import Policy
from support.granted_folders import Faulty, NoSync, manifest, tree

PICK = METHODS["host.pickFile"]
IMAGES = (".png", ".jpg")
OLD, NEW = b"the user's own", b"drawn"
Access = Literal["read", "write"]


def grant(access: Access) -> Grant:
    policy = Policy.build(manifest(fs={"user-selected": "read-write"}), None)
    return authorize(policy, PICK, AccessRequest(picked=(Picked(access, "a.png"),)))


def pick(path: Path | str, access: Access, system: Any = None) -> Any:
    return picked.pick(grant(access), str(path), access, IMAGES, system or NoSync())


def read(file: PickedSource) -> bytes:
    return file.seen_at("$.image.handle").read(1 << 20)


def refusal(path: Path | str, access: Access) -> tuple[str, Any, Any]:
    def attempt() -> None:
        picked.check_path(str(path))
        pick(path, access)

    with pytest.raises(RpcError) as caught:
        attempt()
    data = caught.value.data
    return caught.value.kind, data.get("errno"), data.get("path")


def descriptors() -> int:
    return psutil.Process().num_fds()


# --- the gate --------------------------------------------------------------------------------

WORDS: list[Any] = [None, False, "read", "read-write"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("access", ["read", "write"])
def test_a_pick_needs_its_declaration_and_the_fragment_of_a_denial_is_enough(word: Any, access: Access):
    declared = manifest(fs={"user-selected": word, "user-folder": "read-write"})
    wanted = AccessRequest(picked=(Picked(access, "a.png"),))
    if word == "read-write" or access == word:
        assert authorize(Policy.build(declared, None), PICK, wanted).picks == (access,)
        return
    with pytest.raises(RpcError) as caught:
        authorize(Policy.build(declared, None), PICK, wanted)
    data = caught.value.data
    assert (caught.value.kind, data["capability"], data["resource"], data["reason"]) == (
        "CapabilityDenied",
        "fs.user-selected",
        "a.png",
        "notDeclared",
    )
    assert "host" not in data
    assert authorize(Policy.build(merge(declared, data["declare"]), None), PICK, wanted).picks == (access,)


def test_without_a_manifest_nothing_is_picked():
    with pytest.raises(RpcError) as caught:
        authorize(Policy.build(None, {"user-folder": "/tmp"}), PICK, AccessRequest(picked=(Picked("read", "a.png"),)))
    assert caught.value.data["declare"] == {"capabilities": {"fs": {"user-selected": "read"}}}


@pytest.mark.parametrize("word", WORDS)
def test_a_call_that_uses_picked_files_needs_the_declaration_again(word: Any):
    declared = manifest(fs={"user-selected": word, "user-folder": "read"})
    declared["modalities"] = ["image-to-image"]
    wanted = AccessRequest(
        models=("pocket",),
        sources=(Source("user-folder", "$.mask.root"),),
        picked=(Picked("write", "out.png"), Picked("read", "in.png")),
    )
    grants = {"user-folder": "/somewhere"}
    try:
        given = authorize(Policy.build(declared, grants), METHODS["image.edit"], wanted)
    except RpcError as denied:
        assert word != "read-write"
        given = authorize(Policy.build(merge(declared, denied.data["declare"]), grants), METHODS["image.edit"], wanted)
    else:
        assert word == "read-write"
    assert given.picks == ("write", "read")
    assert "fs.user-selected:write out.png" in given.resource


def test_leave_for_anything_else_picks_no_file(tmp_path: Path):
    policy = Policy.build(manifest(fs={"user-folder": "read-write"}), {"user-folder": str(tmp_path)})
    other = authorize(policy, METHODS["image.generate"], AccessRequest(models=("pocket",), root="user-folder"))
    with pytest.raises(TypeError):
        folder_of_pick(other, str(tmp_path))
    with pytest.raises(TypeError):
        picked.pick(grant("read"), str(tmp_path / "a.png"), "write", IMAGES)


# --- reading ---------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "photo.png"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


@pytest.mark.parametrize("change", ["rename", "replace", "link", "delete", "folder"])
def test_a_file_that_was_picked_stays_that_file_whatever_happens_to_its_name(photo: Path, change: str):
    file = pick(photo, "read")
    assert (file.name, file.size) == ("photo.png", len(OLD))
    other = photo.with_name("other.png")
    other.write_bytes(NEW)
    match change:
        case "rename":
            photo.rename(photo.with_name("x.png"))
        case "replace":
            other.rename(photo)
        case "link":
            photo.unlink()
            photo.symlink_to(other)
        case "delete":
            photo.unlink()
        case _:
            photo.parent.rename(photo.parent.with_name("elsewhere"))
    assert read(file) == OLD
    file.close()


def test_a_link_is_followed_when_it_is_picked_and_not_again(photo: Path):
    link, other = photo.with_name("latest.png"), photo.with_name("other.png")
    other.write_bytes(NEW)
    link.symlink_to(photo)
    file, target = pick(link, "read"), pick(link, "write")
    link.unlink()
    link.symlink_to(other)
    target.save(NEW + NEW)
    assert (read(file), photo.read_bytes(), other.read_bytes()) == (OLD, NEW + NEW, NEW)
    assert link.is_symlink()


@pytest.mark.parametrize("access", ["read", "write"])
def test_only_a_regular_file_can_be_picked(tmp_path: Path, access: Access):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    before = descriptors()
    assert refusal(tmp_path / "folder.png", access) == ("StorageError", "EISDIR", "$.path")
    assert refusal(tmp_path / "pipe.png", access) == ("StorageError", "EINVAL", "$.path")
    assert refusal(tmp_path / "loop.png", access) == ("StorageError", "ELOOP", "$.path")
    assert refusal(tmp_path / "none" / "a.png", access) == ("StorageError", "ENOENT", "$.path")
    assert refusal("/dev/null", access)[0] in ("StorageError", "InvalidParams")
    assert descriptors() == before


def test_a_file_to_read_must_be_there(tmp_path: Path):
    assert refusal(tmp_path / "a.png", "read") == ("StorageError", "ENOENT", "$.path")


@pytest.mark.parametrize("path", ["a.png", "", "~/a.png", "/a/b/", "/", "/a\0b.png", "/\ud800.png", "./a.png"])
@pytest.mark.parametrize("access", ["read", "write"])
def test_a_path_that_no_dialog_gives_is_a_bad_parameter(path: str, access: Access):
    assert refusal(path, access) == ("InvalidParams", None, "$.path")


# --- writing ---------------------------------------------------------------------------------


def test_a_new_file_is_saved_under_the_name_that_was_picked_and_nothing_else(tmp_path: Path):
    target = pick(tmp_path / "new.png", "write")
    assert tree(tmp_path) == {}
    target.save(NEW)
    target.save(NEW + NEW)  # what the app itself saved there is replaced
    assert tree(tmp_path) == {"new.png": NEW + NEW}


def test_a_file_that_was_there_is_replaced_whole_and_keeps_its_permissions(photo: Path):
    photo.chmod(0o640)
    target = pick(photo, "write")
    target.check()
    target.save(NEW)
    assert (photo.read_bytes(), stat.S_IMODE(photo.stat().st_mode)) == (NEW, 0o640)


@pytest.mark.parametrize("existed", [True, False])
def test_another_file_that_takes_the_name_meanwhile_is_not_replaced(photo: Path, existed: bool):
    if not existed:
        photo.unlink()
    target = pick(photo, "write")
    other = photo.with_name("other")
    other.write_bytes(b"somebody else's")
    os.replace(other, photo)
    for attempt in (target.check, lambda: target.save(NEW)):
        with pytest.raises(RpcError) as caught:
            attempt()
        assert (caught.value.kind, caught.value.data["errno"]) == ("StorageError", "EEXIST")
    assert tree(photo.parent) == {"photo.png": b"somebody else's"}


def test_a_file_that_was_there_and_is_gone_is_written_anew(photo: Path):
    target = pick(photo, "write")
    photo.unlink()
    target.check()
    target.save(NEW)
    assert tree(photo.parent) == {"photo.png": NEW}


@pytest.mark.parametrize("existed", [True, False])
def test_a_link_that_takes_the_name_is_neither_followed_nor_replaced(photo: Path, existed: bool):
    victim = photo.with_name("victim.png")
    victim.write_bytes(b"somebody else's")
    if not existed:
        photo.unlink()
    target = pick(photo, "write")
    photo.unlink(missing_ok=True)
    photo.symlink_to(victim)
    with pytest.raises(RpcError) as caught:
        target.save(NEW)
    assert caught.value.data["errno"] in ("ELOOP", "EEXIST")
    assert victim.read_bytes() == b"somebody else's"
    assert photo.is_symlink()


def test_a_folder_that_is_moved_takes_the_file_along_and_a_link_in_its_place_gets_nothing(photo: Path, tmp_path: Path):
    target = pick(photo, "write")
    trap = tmp_path / "trap"
    trap.mkdir()
    photo.parent.rename(tmp_path / "moved")
    (tmp_path / "deep").symlink_to(trap)
    target.save(NEW)
    assert (tree(trap), tree(tmp_path / "moved")) == ({}, {"photo.png": NEW})


def test_the_folder_of_a_picked_file_takes_no_other_name(photo: Path):
    target = pick(photo, "write")
    with pytest.raises(TypeError):
        target._folder.save("other.png", NEW, "overwrite")
    assert tree(photo.parent) == {"photo.png": OLD}


@pytest.mark.parametrize("name", ["thesis.doc", "picture", ".png", "a.gif", "a.png.txt"])
def test_a_file_to_write_has_an_image_s_extension(tmp_path: Path, name: str):
    assert refusal(tmp_path / name, "write") == ("InvalidParams", None, "$.path")


@pytest.mark.parametrize("name", [".hidden.png", "con.png", "a\nb.png", "a:b.png", "a\\b.png", "a\u202eb.png"])
def test_a_new_name_means_the_same_everywhere_and_one_that_is_there_stays_as_it_is(tmp_path: Path, name: str):
    before = descriptors()
    assert refusal(tmp_path / name, "write") == ("InvalidParams", None, "$.path")
    assert descriptors() == before
    (tmp_path / name).write_bytes(OLD)
    pick(tmp_path / name, "write").save(NEW)
    assert tree(tmp_path) == {name: NEW}


@pytest.mark.parametrize("existed", [True, False])
def test_whatever_call_fails_the_old_file_or_the_new_one_is_there_and_nothing_else(photo: Path, existed: bool):
    number = 0
    while True:
        photo.unlink(missing_ok=True)
        if existed:
            photo.write_bytes(OLD)
        system = Faulty(number)
        kind = None
        try:
            pick(photo, "write", system).save(NEW)
        except RpcError as error:
            kind = error.kind
        assert kind in (None, "StorageError")
        assert tree(photo.parent) in ([{"photo.png": OLD}, {"photo.png": NEW}] if existed else [{}, {"photo.png": NEW}])
        if kind is None:
            assert photo.read_bytes() == NEW
        if number > len(system.calls):
            break
        number += 1
    assert number > 8


# --- holding and giving back -----------------------------------------------------------------


def test_a_file_is_open_until_it_is_released_and_the_last_call_has_ended(photo: Path):
    before = descriptors()
    files: list[PickedFile] = [pick(photo, "read"), pick(photo, "write")]
    assert descriptors() == before + 2
    for file in files:
        file.hold()
        assert not file.leave()
    assert descriptors() == before + 2
    view = files[0].seen_at("$.image.handle") if isinstance(files[0], PickedSource) else None
    assert view is not None
    view.close()
    assert read(files[0]) == OLD  # type: ignore[arg-type]
    for file in files:
        assert file.leave()
        file.close()
        with pytest.raises(ValueError, match="was released"):
            file.hold()
    assert descriptors() == before


@pytest.mark.skipif(os.name != "posix", reason="counts descriptors")
def test_whatever_call_fails_no_picked_file_stays_open(photo: Path):
    pick(photo, "read", counting := Faulty()).close()
    for number in range(len(counting.calls)):
        before = descriptors()
        with contextlib.suppress(RpcError):
            pick(photo, "read", Faulty(number)).close()
        assert descriptors() == before, counting.calls[number]


def test_an_error_names_the_parameter_of_the_call_and_never_the_folder(photo: Path):
    file = pick(photo, "read")
    with pytest.raises(RpcError) as caught:
        file.seen_at("$.mask.handle").read(3)
    assert (caught.value.kind, caught.value.data["path"]) == ("InvalidImage", "$.mask.handle")
    assert str(photo.parent) not in str(caught.value.to_wire())


def test_descriptors_are_left_for_the_daemon_s_own_work(photo: Path, monkeypatch: pytest.MonkeyPatch):
    before = descriptors()
    monkeypatch.setattr(picked, "_descriptors", lambda: 64)
    for access in ("read", "write"):
        assert refusal(photo, access) == ("StorageError", "EMFILE", "$.path")
    assert descriptors() == before


def test_what_a_pick_is_for_is_told_by_its_kind(photo: Path):
    assert isinstance(pick(photo, "read"), PickedSource)
    assert isinstance(pick(photo, "write"), PickedTarget)
