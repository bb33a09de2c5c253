"""How much may still be written to a disk, and why no more may."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = 1 << 62
"""Some file systems in memory and on networks do not say how large they are: only writing shows that one is full."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a write for which there is no room."""


def free(folder: Path) -> int:
    """Return the bytes that the user may still write where ``folder`` is; :data:`UNKNOWN` if the file system does not
    say.

    :raises OSError: if there is no such folder.
    """
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else UNKNOWN


def why_full(number: int | None, where: Path | int, needed: int, available: int) -> str:
    """Explain a write that failed with one of :data:`FULL`: what is full, and what helps. One or two sentences.

    A file system also runs out of other things than bytes, and then reports enough of these.

    :param where: the folder, or an open file, that was written to.
    :param needed: bytes that were to be written, as far as known.
    :param available: bytes that the system reports as free.
    """
    if number == errno.EDQUOT:
        return "The user's quota on this disk is used up: delete files there, or get a larger quota."
    if _no_more_files(where):
        return "The disk can hold no more files, however small (it has no free inodes): delete some of them."
    if needed > available:
        return f"{needed} bytes of disk space are needed, {available} are free."
    told = "" if available >= UNKNOWN else f", although {available} bytes are free"
    return f"The system says that the disk is full{told}. It may limit the number of files, or what one user may have."


def _no_more_files(where: Path | int) -> bool:
    """Whether the file system counts inodes, and has none left for this user."""
    if sys.platform == "win32":
        return False
    try:
        found = os.statvfs(where)
    except OSError:
        return False
    return found.f_files > 0 and found.f_favail == 0  # 0 of 0: it does not count them
