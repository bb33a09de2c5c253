"""What the capability campaign and its short tests do to a folder while a file in it is read. Linux only."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from locara_protocol.errors import RpcError
from locara_sidecar.capability.files.reading import ReadableFolder
from support.granted_folders import read_grant_for
from support.swapped_links import Arena, forked

if TYPE_CHECKING:
    from pathlib import Path

INSIDE, OUTSIDE = b"inside", b"outside"
_LIMIT = 1 << 20


def arena_of_pictures(where: Path) -> Arena:
    """Create an arena with a picture of the same name on either side."""
    arena = Arena(where)
    for folder, data in ((arena.root / "sub", INSIDE), (arena.outside, OUTSIDE)):
        for name in ("picture.png", "deep/picture.png"):
            (folder / name).write_bytes(data)
    return arena


@dataclass
class RacedReads:
    """The outcome of the reads; ``escaped``: those that returned anything but the file inside."""

    read: int = 0
    refused: int = 0
    escaped: int = 0
    other: list[str] = field(default_factory=list[str])


def race_reads(where: Path, reads: int, resolution: str) -> RacedReads:
    """Read ``reads`` times while another process swaps links; every refusal must be a StorageError."""
    arena, found = arena_of_pictures(where), RacedReads()
    grant = read_grant_for(arena.root)
    with forked(arena.swap), ReadableFolder(grant, resolution=cast("Any", resolution)) as folder:
        for number in range(reads):
            try:
                file = folder.open(f"sub/{'deep/' if number % 2 else ''}picture.png", "$.image.path")
                try:
                    data = file.read(_LIMIT)
                finally:
                    file.close()
            except RpcError as error:
                found.refused += 1
                if error.kind != "StorageError":
                    found.other.append(error.kind)
            else:
                found.read += 1
                found.escaped += data != INSIDE
    arena.close()
    return found


def race_reads_naive(where: Path, most: int) -> int | None:
    """The planted fault: resolve, compare the prefix, read. Returns the number of the read that escaped."""
    arena = arena_of_pictures(where)
    target = arena.root / "sub/picture.png"
    try:
        with forked(arena.swap):
            for number in range(1, most + 1):
                with contextlib.suppress(OSError):  # the swap may happen in the middle of resolving
                    if target.resolve().is_relative_to(arena.root) and target.read_bytes() == OUTSIDE:
                        return number
        return None
    finally:
        arena.close()
