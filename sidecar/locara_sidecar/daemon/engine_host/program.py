"""The folder that engines are started from. An update may replace it while the daemon runs."""

from __future__ import annotations

import os
import sys
import time

from locara_protocol.records import Record
from locara_sidecar.machine import bundle

_SWAP = 5.0  # seconds between the two renames that replace a folder
_LOOK_EVERY = 0.05


class Program(Record, frozen=True):
    """Identifies what an engine was started from."""

    folder: tuple[int, int]
    """Changes if the folder is replaced: a confined engine may then open nothing more, because its sandbox knows only
    the folder that is gone."""
    build: tuple[int, int, int] | None = None
    """Changes if a bundle's files are replaced inside the folder, as ``dpkg`` does; None for other installations."""


def find() -> Program | None:
    """Return what engines are started from now, None if it is not there. Waits while a folder is being replaced.

    Reads files, so keep it off the event loop.
    """
    until = time.monotonic() + _SWAP
    while (found := _found()) is None and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
    return found


def _found() -> Program | None:
    try:
        folder = os.stat(sys.prefix)
    except OSError:
        return None
    try:
        facts = os.stat(os.path.join(os.path.dirname(sys.prefix), bundle.FACTS))
    except OSError:
        return Program((folder.st_dev, folder.st_ino))
    return Program((folder.st_dev, folder.st_ino), (facts.st_dev, facts.st_ino, facts.st_mtime_ns))
