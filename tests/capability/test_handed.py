"""Picked files without a path: descriptors sent over a socket, and bytes sent in the call."""

import errno
import os
import socket
from array import array

import psutil
import pytest

from locara_protocol.errors import RpcError
from locara_protocol.handing import HandingSocket
from locara_protocol.methods import METHODS
from locara_sidecar.capability import handed
from locara_sidecar.capability.authorize import AccessRequest, Picked, access_of_pick, authorize
from locara_sidecar.capability.descriptors import MAX_WAITING, DescriptorSocket
from locara_sidecar.capability.policy import Policy
from support.granted_folders import NoSync, manifest

OLD, NEW = b"what was there", b"drawn" * 50_000
IMAGES = (".png", ".jpg")


def grant(access):
    policy = Policy.build(manifest(fs={"user-selected": "read-write"}), None)
    return authorize(policy, METHODS["host.pickFile"], AccessRequest(picked=(Picked(access, "a.png"),)))


def hand(path, flags, access, system=None):
    return handed.handed(grant(access), "a.png", os.open(path, flags), IMAGES, "$.descriptor", system or NoSync())


def failing(name, number):
    """The real system calls, except that the first call with the given name fails."""
    system = NoSync()

    def fail(*_):
        delattr(system, name)
        raise OSError(number, os.strerror(number))

    setattr(system, name, fail)
    return system


def descriptors():
    return psutil.Process().num_fds()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def ends():
    """The host's end of the socket and the sidecar's end."""
    ours = HandingSocket()
    theirs = DescriptorSocket(os.dup(ours.inherited[0]))
    yield ours, theirs
    theirs.close()
    ours.close()


def refusal(function, *given):
    with pytest.raises(RpcError) as caught:
        function(*given)
    return caught.value.kind, caught.value.data.get("errno"), caught.value.data.get("path")


# --- files -----------------------------------------------------------------------------------


def test_a_handed_file_is_read_whatever_becomes_of_its_name(file):
    picked = hand(file, os.O_RDONLY, "read")
    file.unlink()
    assert (picked.size, picked.seen_at("$.image.handle").read(100)) == (len(OLD), OLD)
    picked.close()


@pytest.mark.parametrize("before", [b"", OLD, NEW * 2])
def test_a_handed_file_holds_the_picture_and_no_more(file, before):
    file.write_bytes(before)
    picked = hand(file, os.O_RDWR, "write")
    for data in (NEW, NEW[:10], NEW):
        picked.save(data)
        assert file.read_bytes() == data
    picked.close()


@pytest.mark.parametrize(
    ("flags", "access", "number"),
    [
        (os.O_WRONLY, "read", "EBADF"),
        (os.O_RDONLY, "write", "EBADF"),
        (os.O_RDWR | os.O_APPEND, "write", "EBADF"),
        pytest.param(
            getattr(os, "O_PATH", 0),
            "read",
            "EBADF",
            marks=pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="Linux has such descriptors"),
        ),
    ],
)
def test_a_descriptor_for_something_else_is_refused_and_closed(file, flags, access, number):
    before = descriptors()
    assert refusal(hand, file, flags, access) == ("StorageError", number, "$.descriptor")
    assert (descriptors(), file.read_bytes()) == (before, OLD)


def test_what_is_no_regular_file_is_refused_and_closed(tmp_path):
    before = descriptors()
    os.mkfifo(tmp_path / "fifo")
    assert refusal(hand, tmp_path, os.O_RDONLY, "read") == ("StorageError", "EISDIR", "$.descriptor")
    assert refusal(hand, tmp_path / "fifo", os.O_RDWR, "write") == ("StorageError", "EINVAL", "$.descriptor")
    assert descriptors() == before


def test_a_file_to_write_is_called_as_a_picture_is(file):
    with pytest.raises(RpcError, match=r"must end with \.png"):
        handed.handed(grant("write"), "a.txt", os.open(file, os.O_RDWR), IMAGES, "$.descriptor")


def test_a_file_that_was_removed_is_told_before_anything_is_drawn(file):
    picked = hand(file, os.O_RDWR, "write")
    picked.check()
    file.unlink()
    assert refusal(picked.check)[:2] == refusal(picked.save, NEW)[:2] == ("StorageError", "ENOENT")
    picked.close()


@pytest.mark.parametrize("asked", ["cancelled", "begin"])
def test_a_cancel_before_the_first_byte_leaves_the_file(file, asked):
    picked = hand(file, os.O_RDWR, "write")
    assert refusal(lambda: picked.save(NEW, **{asked: lambda: asked == "cancelled"}))[0] == "RequestCancelled"
    assert file.read_bytes() == OLD
    picked.close()


def test_a_full_disk_leaves_what_was_there(file):
    picked = hand(file, os.O_RDWR, "write", failing("write_at", errno.ENOSPC))
    assert refusal(picked.save, NEW)[0] == "InsufficientDisk"
    assert file.read_bytes() == OLD
    picked.close()


def test_a_used_up_quota_is_called_so(file):
    picked = hand(file, os.O_RDWR, "write", failing("write_at", errno.EDQUOT))
    with pytest.raises(RpcError, match="quota") as failure:
        picked.save(NEW)
    assert failure.value.kind == "InsufficientDisk"
    picked.close()


@pytest.mark.parametrize("call", ["set_size", "sync"])
def test_any_later_failure_leaves_an_empty_file_and_no_part_of_a_picture(file, call):
    picked = hand(file, os.O_RDWR, "write", failing(call, errno.EIO))
    assert refusal(picked.save, NEW)[:2] == ("StorageError", "EIO")
    assert file.read_bytes() == b""
    picked.close()


@pytest.mark.parametrize("name", ["", "b/a.png", "/a.png", "..", "a\0.png"])
def test_a_name_is_the_files_own(name):
    assert refusal(handed.check_name, name) == ("InvalidParams", None, "$.name")


def test_only_leave_for_a_pick_hands_over_a_file():
    policy = Policy.build(manifest(fs={"user-selected": "read-write"}), None)
    other = authorize(policy, METHODS["models.list"], AccessRequest())
    for wrong in (None, other):
        with pytest.raises(TypeError, match="only a grant for"):
            access_of_pick(wrong)


# --- the socket ------------------------------------------------------------------------------


def test_descriptors_come_by_name_in_any_order_and_once(file, ends):
    ours, theirs = ends
    fd = os.open(file, os.O_RDONLY)
    names = [ours.send(fd) for _ in range(3)]
    os.close(fd)
    for name in reversed(names):
        taken = theirs.take(name)
        assert (os.pread(taken, 99, 0), os.get_inheritable(taken)) == (OLD, False)
        os.close(taken)
        assert refusal(theirs.take, name) == ("InvalidParams", None, "$.descriptor")


def test_what_is_not_one_descriptor_with_a_name_is_closed(file, ends):
    ours, theirs = ends
    before = descriptors()
    fd = os.open(file, os.O_RDONLY)
    for text, count in ((b"two", 2), (b"three", 3), (b"none", 0), (b"x" * 65, 1)):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd] * count))] if count else []
        ours._ours.sendmsg([text], rights)
        assert refusal(theirs.take, text.decode())[0] == "InvalidParams"
    os.close(fd)
    assert descriptors() == before


def test_those_that_nobody_names_are_bounded(file, ends):
    ours, theirs = ends
    before = descriptors()
    fd = os.open(file, os.O_RDONLY)
    for _ in range(MAX_WAITING + 10):
        ours.send(fd)
        assert refusal(theirs.take, "nobody")[0] == "InvalidParams"
    os.close(fd)
    assert descriptors() == before + MAX_WAITING
    assert refusal(theirs.take, "file-1")[0] == "InvalidParams"
    os.close(theirs.take(f"file-{MAX_WAITING + 10}"))


def test_a_name_that_comes_twice_is_the_later_file(file, tmp_path, ends):
    ours, theirs = ends
    (tmp_path / "b.png").write_bytes(b"later")
    before = descriptors()
    for path in (file, tmp_path / "b.png"):
        fd = os.open(path, os.O_RDONLY)
        ours._ours.sendmsg([b"same"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))])
        os.close(fd)
    refusal(theirs.take, "nobody")
    taken = theirs.take("same")
    assert (os.pread(taken, 99, 0), descriptors()) == (b"later", before + 1)
    os.close(taken)


def test_a_host_that_is_gone_is_as_one_that_sent_nothing(ends):
    ours, theirs = ends
    ours.close()
    assert refusal(theirs.take, "file-1")[0] == "InvalidParams"


@pytest.mark.parametrize("kind", ["file", "stream", "internet", "closed"])
def test_only_a_unix_datagram_socket_is_taken(tmp_path, kind):
    stream, other = socket.socketpair()
    internet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stream, other, internet, open(tmp_path / "x", "w") as opened:
        numbers = {"file": opened.fileno(), "stream": stream.fileno(), "internet": internet.fileno(), "closed": 9999}
        with pytest.raises(ValueError, match=r"--descriptors \d+ is"):
            DescriptorSocket(numbers[kind])
        assert stream.fileno() >= 0
        assert os.fstat(stream.fileno())
