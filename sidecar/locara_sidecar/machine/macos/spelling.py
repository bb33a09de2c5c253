"""A path as the file system itself spells it, which is how the kernel compares it.

On macOS ``/users/A`` and ``/Users/a`` are the same folder, and so are two ways to write an accent; ``os.path.realpath``
keeps what was typed. A sandbox rule for the typed path would permit nothing, and a home folder in different case would
not be recognized.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locara_sidecar.machine.macos.darwin import Darwin


def spelt(path: str, mac: Darwin | None = None) -> str:
    """Return ``path`` without links, in the file system's own spelling as far as it can be opened."""
    real = os.path.realpath(path)
    if sys.platform != "darwin":
        return real
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    try:
        return (mac or darwin.Darwin()).real_path(real)
    except OSError:  # it does not exist (yet), or is not ours
        return real
