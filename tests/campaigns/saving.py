"""What the capability campaign and its short tests do to a folder: swap links, save under one name at once, try names.

Linux only (fork, and an atomic exchange of names). Syncing is left out: what is shown here does not depend on the disk.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from locara_protocol.errors import RpcError
from support.granted_folders import NoSync, open_folder
from support.swapped_links import Arena, forked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from locara_sidecar.capability.files.system import System

WAYS = [(resolution, kind) for resolution in ("openat2", "walk") for kind in ("anonymous", "named")]
"""Every way that a save can take: how folders are found, and what an unfinished file is."""

_NAMES = 200
_TIDY_EVERY = 5000


class Clobbering(NoSync):
    """A planted fault: a rename that replaces an existing file."""

    def rename_new(self, old: str, new: str, parent: int) -> None:
        self.rename_over(old, new, parent)


@dataclass
class Raced:
    """The outcome of the saves."""

    saved: int = 0
    refused: int = 0
    escaped: int = 0
    other: list[str] = field(default_factory=list[str])


def race(where: Path, saves: int, resolution: str, kind: str) -> Raced:
    """Save ``saves`` times while another process swaps links; every refusal must be a StorageError."""
    arena, found = Arena(where), Raced()
    with forked(arena.swap), open_folder(arena.root, resolution, kind) as folder:
        for number in range(saves):
            path = f"sub/{'deep/' if number % 2 else ''}{number % _NAMES}.png"
            try:
                folder.save(path, b"x", "overwrite" if number % 3 else "rename" if number % 9 else "error")
                found.saved += 1
            except RpcError as error:
                found.refused += 1
                if error.kind != "StorageError":
                    found.other.append(error.kind)
            if number % _TIDY_EVERY == _TIDY_EVERY - 1:
                arena.tidy()
    found.escaped = arena.escaped()
    arena.close()
    return found


def race_naive(where: Path, most: int) -> int | None:
    """The planted fault: resolve, compare the prefix, write. Returns the number of the save that escaped."""
    arena = Arena(where)
    try:
        with forked(arena.swap):
            for number in range(1, most + 1):
                target = arena.root / "sub" / f"{number}.png"
                with contextlib.suppress(OSError):  # the swap may happen in the middle of resolving
                    if target.parent.resolve().is_relative_to(arena.root):
                        target.write_bytes(b"x")
                if arena.escaped():
                    return number
        return None
    finally:
        arena.close()


# --- one name, several processes ------------------------------------------------------------

_A_PILE = 10  # saves of one process into one folder
_USERS_OWN = b"the user's own"


def collide(where: Path, saves: int, workers: int, kind: str, system: System) -> tuple[int, int]:
    """Saves that say they were published, and how many files do not hold what their saver wrote."""
    piles = max(1, saves // workers // _A_PILE)
    for pile in range(piles):
        (where / f"pile{pile}").mkdir(parents=True)
        (where / f"pile{pile}" / "picture.png").write_bytes(_USERS_OWN)
    assert sys.platform != "win32"
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    arguments = [(where, worker, piles, kind, system, results) for worker in range(workers)]
    processes = [context.Process(target=_collide, args=words) for words in arguments]
    for process in processes:
        process.start()
    rows: list[tuple[str, bytes]] = [row for _ in processes for row in results.get()]
    for process in processes:
        process.join()
    rows += [(f"pile{pile}/picture.png", _USERS_OWN) for pile in range(piles)]
    wrong = sum((where / path).read_bytes() != data for path, data in rows)
    files = sum(len(files) for _, _, files in os.walk(where))
    shutil.rmtree(where)
    return len(rows) - piles, wrong + abs(files - len({path for path, _ in rows}))


def _collide(where: Path, worker: int, piles: int, kind: str, system: System, results: Any) -> None:
    rows: list[tuple[str, bytes]] = []
    with open_folder(where, kind=kind, system=system) as folder:
        for pile, number in itertools.product(range(piles), range(_A_PILE)):
            data = f"{worker} {pile} {number}".encode()
            rows.append((folder.save(f"pile{pile}/picture.png", data, "rename").relative_path, data))
    results.put(rows)


# --- names ----------------------------------------------------------------------------------

_PARTS = (
    *("..", ".", "", "a", "a.png", "link", "up", ".hidden", "CON", "nul.png", "a:b", "a\\b", "..\\x", "C:", "~"),
    *(
        "\0",
        "a\0b",
        "\n",
        "\u2044",
        "\uff0f",
        "\u2215..",
        "\u200d..",
        "\u202e",
        "\ud800",
        "e\u0301",
        "\u00e9",
        "a ",
        "a.",
    ),
    *("%2e%2e", "..%2f", "x" * 255, "x" * 256, "...", "proc", "\u00a0"),
)


def names() -> Iterator[str]:
    """Yield every way to join up to three awkward parts, with and without a slash around."""
    for count in (1, 2, 3):
        for parts in itertools.product(_PARTS, repeat=count):
            path = "/".join(parts)
            yield path
            yield f"/{path}"
            if count < 3:
                yield f"{path}/"
                yield f"{path}/../../x.png"


def _planted(where: Path) -> Path:
    root = where / "root"
    root.mkdir()
    (where / "outside").mkdir()
    (root / "link").symlink_to(where / "outside")
    (root / "up").symlink_to("..")
    (root / "proc").symlink_to("/proc/self/cwd")
    return root


def try_names(where: Path, most: int | None = None) -> tuple[int, int, int]:
    """Return names tried, names saved, and files outside the folder.

    :param most: how many names to try; None for all.
    """
    root = _planted(where)
    before = set(os.listdir(where)) | {"root", "outside"}
    tried = saved = 0
    with open_folder(root) as folder:
        for path in itertools.islice(names(), most):
            tried += 1
            with contextlib.suppress(RpcError):
                folder.save(path, b"x", "overwrite")
                saved += 1
    outside = len(os.listdir(where / "outside")) + len(set(os.listdir(where)) - before)
    links = sum(not (root / name).is_symlink() for name in ("link", "up", "proc"))
    return tried, saved, outside + links


def try_names_naively(where: Path, most: int) -> int:
    """The planted fault: join and write. Return the files outside after that many names."""
    root = _planted(where)
    (where / "current" / "folder").mkdir(parents=True)
    before = set(os.listdir(where))
    with contextlib.chdir(where / "current" / "folder"):  # the link through /proc leads to the current folder
        for path in itertools.islice(names(), most):
            if path.startswith("/"):
                continue  # an absolute path would really be written to
            with contextlib.suppress(OSError, ValueError):
                (root / path).write_bytes(b"x")
    return len(os.listdir(where / "outside")) + len(set(os.listdir(where)) - before)
