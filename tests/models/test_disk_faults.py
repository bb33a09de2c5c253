"""A disk that fails at any call of a download or import: a typed error, nothing partial, and the next try works."""

import errno
import os
import threading

import pytest

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files.system import System
from locara_sidecar.models.cache import collect, disk
from locara_sidecar.models.imports.importing import import_model
from support.model_store import download, entry_for, hf_cache, whole, write_model

CALLS = ("open", "write", "link", "rename", "replace", "mkdir", "chmod", "fsync", "ftruncate")


class FailingDisk:
    """Counts the calls that write to something below ``root``, and fails one of them."""

    def __init__(self, monkeypatch, root):
        self._root = str(root)
        self._lock = threading.Lock()
        self._fds = set()
        self.count = 0
        self.fails_at = None
        self.error = errno.EIO
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, real):
        def call(*arguments, **more):
            target = arguments[-1] if name in ("link", "rename", "replace") else arguments[0]
            ours = name == "fsync" or target in self._fds if isinstance(target, int) else self._root in str(target)
            writes = name != "open" or bool(arguments[1] & (os.O_CREAT | os.O_RDWR))
            if ours and writes:
                with self._lock:
                    self.count += 1
                    if self.count == self.fails_at:
                        raise OSError(self.error, os.strerror(self.error))
            result = real(*arguments, **more)
            if name == "open" and ours:
                self._fds.add(result)
            return result

        return call


def attempts(store, disk, act, error, *, keeps):
    """Act with the first call failing, then the second, … until none fails; return (calls, kinds of the errors).

    :param keeps: whether the data received so far is kept for the next try.
    """
    kinds = []
    for place in range(1, 10_000):
        disk.count, disk.fails_at, disk.error = 0, place, error
        try:
            act()
        except RpcError as failure:
            kinds.append(failure.kind)
        assert whole(store) in ([], ["mine"])
        assert list(store.incoming.glob("tree-*")) == []
        if not keeps and not whole(store):
            assert left(store) == []
        survived = disk.count < place
        disk.fails_at = None
        act()
        assert whole(store) == ["mine"]
        collect.remove(store, collect.plan_remove(store, "mine"), "mine")
        collect.execute(store, collect.plan_gc(store, 0))
        assert left(store) == []
        if survived:
            return place - 1, kinds
    raise AssertionError("it never ends")


def left(store):
    return [path for path in store.root.rglob("*") if path.is_file() and path.parent != store.locks]


def test_writes_that_come_back_short_are_gone_on_with(store, hub, monkeypatch):
    """Just before a disk is full, writes are short without an error."""
    real, short = os.write, []

    def write(fd, data):
        short.append(len(data) // 2)
        return real(fd, memoryview(data)[: len(data) // 2 or 1])

    monkeypatch.setattr(os, "write", write)
    download(store, hub)
    assert max(short) > 1000
    assert whole(store) == ["mine"]


CASES = [("download", errno.ENOSPC), ("cache", errno.EIO), ("folder", errno.EIO)]


@pytest.mark.timeout(300)  # a hundred attempts, each of which reads and writes
@pytest.mark.parametrize(("way", "error"), CASES, ids=lambda value: errno.errorcode.get(value, value))
def test_a_disk_that_fails_at_any_call_leaves_nothing_partial(store, hub, tmp_path, monkeypatch, way, error):
    monkeypatch.setattr(disk, "_SYSTEM", System())
    source = write_model(tmp_path / "source", size=2000)
    hub.add("org/mine", source)
    folder = hf_cache(tmp_path / "hf", source) if way == "cache" else source

    def act():
        if way == "download":
            download(store, hub)
        else:
            import_model(store, entry_for(), folder, lambda _: None)

    calls, kinds = attempts(store, FailingDisk(monkeypatch, store.root), act, error, keeps=way == "download")
    assert set(kinds) == {"InsufficientDisk" if error == errno.ENOSPC else "StorageError"}
    assert len(kinds) > calls // 2 > 10
