"""A disk can be full in several ways, and the message says in which."""

import errno
import os
from types import SimpleNamespace

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.machine import disk_space
from locara_sidecar.models.cache import disk
from locara_sidecar.models.imports.importing import storage_error
from support.model_store import download

PLENTY = 1 << 40


def inodes(monkeypatch, total, free):
    sizes = {"f_bavail": PLENTY, "f_bfree": PLENTY, "f_blocks": PLENTY, "f_frsize": 1}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_files=total, f_favail=free, **sizes))


@pytest.mark.parametrize(
    ("number", "files", "needed", "said"),
    [
        (errno.EDQUOT, (100, 50), 10, "quota"),
        (errno.ENOSPC, (100, 0), 10, "inodes"),
        (errno.ENOSPC, (100, 50), 2 * PLENTY, f"{2 * PLENTY} bytes of disk space are needed, {PLENTY} are free"),
        (errno.ENOSPC, (100, 50), 10, f"although {PLENTY} bytes are free"),
        (errno.ENOSPC, (0, 0), 10, "although"),  # Btrfs does not count inodes
    ],
)
def test_the_message_says_what_is_full(tmp_path, monkeypatch, number, files, needed, said):
    inodes(monkeypatch, *files)
    assert said in disk_space.why_full(number, tmp_path, needed, PLENTY)


def test_free_space_that_is_unknown_is_not_told(tmp_path, monkeypatch):
    inodes(monkeypatch, 100, 50)
    assert str(disk_space.UNKNOWN) not in disk_space.why_full(errno.ENOSPC, tmp_path, 10, disk_space.UNKNOWN)


@pytest.mark.parametrize(("number", "said"), [(errno.EDQUOT, "quota"), (errno.ENOSPC, "inodes")])
def test_every_way_of_writing_says_it(store, hub, monkeypatch, number, said):
    inodes(monkeypatch, 100, 0)
    error = OSError(number, os.strerror(number))
    assert said in storage_error(store, error, 10).message

    def refused(*_, **__):
        raise error

    monkeypatch.setattr(disk, "sync_tree", refused)
    with pytest.raises(RpcError, match=said) as failure:
        download(store, hub)
    assert failure.value.kind == "InsufficientDisk"
