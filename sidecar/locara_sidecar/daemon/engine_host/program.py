"""The folder that engines are started from. An update may replace it while the daemon runs."""

from __future__ import annotations

import os
import sys
import time

from locara_protocol.records import Record
from locara_sidecar.machine import bundle

_SWAP = 5.0  # seconds between the two renames that replace a folder
_LOOK_EVERY = 0.05
_in_vain: set[str] = set()  # the folder, if a wait for it was in vain: the next call need not wait again


_first: list[Program] = []


class Program(Record, frozen=True):
    """Identifies what an engine was started from."""

    folder: tuple[int, int, int]
    """Changes if the folder is replaced: a confined engine can then open nothing more, because its sandbox knows only
    the old folder. The last number is a time, because a file system gives the inode number of a deleted folder to the
    next one; it also changes when something is added to the folder itself, which is rare."""
    build: tuple[int, int, int] | None = None
    """Changes if a bundle's files are replaced inside the folder, as ``dpkg`` does; None for other installations."""


def find(*, wait: bool = True) -> Program | None:
    """Return what engines are now started from, None if it does not exist.

    Reads files, so keep it off the event loop.

    :param wait: whether to wait while a folder is being replaced, some seconds at most.
    """
    folder = sys.prefix
    until = time.monotonic() + (_SWAP if wait and folder not in _in_vain else 0.0)
    while (found := _found()) is None and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
    if found is not None:
        _in_vain.discard(folder)
    elif wait:
        _in_vain.add(folder)
    return found


def begin() -> Program | None:
    """Note what this daemon was started from, and return it."""
    _first[:] = [found] if (found := find(wait=False)) is not None else []
    return found


def was_replaced(now: Program | None) -> bool:
    """Whether processes are started from other files ``now`` than this daemon was."""
    return now is not None and bool(_first) and now != _first[0]


def _found() -> Program | None:
    try:
        folder = os.stat(sys.prefix)
    except OSError:
        return None
    number = folder.st_dev, folder.st_ino, folder.st_ctime_ns
    try:
        facts = os.stat(os.path.join(os.path.dirname(sys.prefix), bundle.FACTS))
    except OSError:
        return Program(number)
    return Program(number, (facts.st_dev, facts.st_ino, facts.st_mtime_ns))
