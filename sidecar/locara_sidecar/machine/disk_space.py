"""How much may still be written to a disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN = 1 << 62
"""Some file systems in memory and on networks do not say how large they are: only writing shows that one is full."""


def free(folder: Path) -> int:
    """Return the bytes that the user may still write where ``folder`` is; :data:`UNKNOWN` if the file system does not
    say.

    :raises OSError: if there is no such folder.
    """
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else UNKNOWN
