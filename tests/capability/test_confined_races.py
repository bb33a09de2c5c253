"""Against other processes: swapped links, taken names, kill -9. Each zero here has a control that is not zero."""

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from capability.helpers import KINDS, RESOLUTIONS, NoSync, open_folder
from locara_protocol.errors import RpcError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses fork and an atomic exchange of names")


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A child that works until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def swapper(root: Path) -> Callable[[], None]:
    """Exchange a folder and a link that leads outside, as fast as it goes."""
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(root.parent / "outside")
    (root.parent / "outside").mkdir()
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    one, two = os.fsencode(root / "sub"), os.fsencode(root / "link")

    def work() -> None:
        for _ in range(50):
            exchange(-100, one, -100, two, 2)

    return work


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_save_escapes_while_links_are_swapped(tmp_path: Path, resolution: str, kind: str):
    root = tmp_path / "root"
    saved = refused = 0
    kinds: set[str] = set()
    with forked(swapper(root)), open_folder(root, resolution, kind) as folder:
        started = time.monotonic()
        while (now := time.monotonic() - started) < 15 and (now < 0.6 or not saved or not refused):
            try:
                folder.save(f"sub/{saved + refused}.png", b"x", "error")
                saved += 1
            except RpcError as error:
                kinds.add(error.kind)
                refused += 1
    assert saved
    assert refused
    assert kinds == {"StorageError"}
    assert os.listdir(tmp_path / "outside") == []


def test_control_comparing_resolved_paths_does_let_saves_escape(tmp_path: Path):
    """The planted fault: the same race against the way that does not hold."""
    root = tmp_path / "root"
    outside = tmp_path / "outside"
    escaped = False
    with forked(swapper(root)):
        started = time.monotonic()
        number = 0
        while not escaped and time.monotonic() - started < 20:
            number += 1
            naive_save(root, root / "sub" / f"{number}.png")
            if number % 20 == 0:
                escaped = bool(os.listdir(outside))
    assert escaped


def naive_save(root: Path, target: Path) -> None:
    with contextlib.suppress(OSError):  # the swap may also come in the middle of resolving
        if target.parent.resolve().is_relative_to(root):
            target.write_bytes(b"x")


def collide(root: Path, worker: int, kind: str, system: Any, results: Any) -> None:
    rows: list[tuple[str, bytes]] = []
    with open_folder(root, kind=kind, system=system) as folder:
        for number in range(40):
            data = f"{worker}-{number}".encode()
            rows.append((folder.save(f"pile{number % 3}/picture.png", data, "rename").relative_path, data))
    results.put(rows)


def collisions(root: Path, kind: str, system: Any) -> list[tuple[str, bytes]]:
    """What four processes say that they saved, each file with its contents."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [context.Process(target=collide, args=(root, worker, kind, system, results)) for worker in range(4)]
    for process in workers:
        process.start()
    rows = [row for _ in workers for row in results.get()]
    for process in workers:
        process.join()
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_want_one_name_never_overwrite_each_other(tmp_path: Path, kind: str):
    rows = collisions(tmp_path, kind, NoSync())
    assert len({path for path, _ in rows}) == len(rows) == 160
    assert all((tmp_path / path).read_bytes() == data for path, data in rows)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 160


def test_control_a_rename_that_clobbers_does_overwrite(tmp_path: Path):
    class Clobbering(NoSync):
        def rename_new(self, old: str, new: str, parent: int) -> None:
            self.rename_over(old, new, parent)

    rows = collisions(tmp_path, "named", Clobbering())
    assert any((tmp_path / path).read_bytes() != data for path, data in rows)


def whole(data: bytes) -> bool:
    return hashlib.sha256(data[32:]).digest() == data[:32]


@pytest.mark.parametrize("on_conflict", ["rename", "overwrite"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_leaves_nothing_half_written_in_sight(tmp_path: Path, kind: str, on_conflict: Any):
    body = random.Random(7).randbytes(4_000_000)
    data = hashlib.sha256(body).digest() + body
    for _ in range(12):
        with open_folder(tmp_path, kind=kind) as folder, forked(partial(folder.save, "picture.png", data, on_conflict)):
            time.sleep(random.uniform(0.005, 0.04))
        for path in tmp_path.rglob("*"):
            hidden = path.name.startswith(".locara-") and path.name.endswith(".part")
            assert hidden or whole(path.read_bytes()), path
            assert not hidden or (kind, on_conflict) != ("anonymous", "rename"), path
            if hidden or on_conflict == "rename":
                path.unlink()


def test_control_writing_in_place_is_caught_by_the_same_kills(tmp_path: Path):
    body = random.Random(7).randbytes(4_000_000)
    data = hashlib.sha256(body).digest() + body
    path = tmp_path / "picture.png"
    for _ in range(300):
        with forked(partial(path.write_bytes, data)):
            time.sleep(random.uniform(0.005, 0.04))
        if path.exists() and not whole(path.read_bytes()):
            return
    pytest.fail("the kills never hit a write: they show nothing about the saves either")
