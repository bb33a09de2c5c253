"""Against other processes: swapped links, taken names, kill -9. Each zero here has a control that is not zero."""

import hashlib
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from campaigns.saving import Clobbering, collide, race_naive, try_names, try_names_naively
from locara_protocol.errors import RpcError
from support.granted_folders import KINDS, RESOLUTIONS, NoSync, open_folder
from support.swapped_links import Arena, forked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="uses fork and an atomic exchange of names"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_save_escapes_while_links_are_swapped(tmp_path: Path, resolution: str, kind: str):
    arena = Arena(tmp_path)
    saved = refused = 0
    kinds: set[str] = set()
    with forked(arena.swap), open_folder(arena.root, resolution, kind) as folder:
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
    assert arena.escaped() == 0
    arena.close()


def test_control_comparing_resolved_paths_does_let_saves_escape(tmp_path: Path):
    """The planted fault: the same race against the unsafe way."""
    assert race_naive(tmp_path, 100_000) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_want_one_name_never_overwrite_each_other(tmp_path: Path, kind: str):
    assert collide(tmp_path / "piles", 160, 4, kind, NoSync()) == (160, 0)


def test_control_a_rename_that_clobbers_does_overwrite(tmp_path: Path):
    _, wrong = collide(tmp_path / "piles", 160, 4, "named", Clobbering())
    assert wrong > 0


def test_no_name_of_the_corpus_leads_outside_and_harmless_ones_are_saved(tmp_path: Path):
    tried, saved, outside = try_names(tmp_path, most=4000)
    assert (tried, outside) == (4000, 0)
    assert saved > 0


def test_control_joining_a_name_and_writing_leads_outside(tmp_path: Path):
    (tmp_path / "inner").mkdir()  # three names down from there may lead up by two
    assert try_names_naively(tmp_path / "inner", most=4000) > 0


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
