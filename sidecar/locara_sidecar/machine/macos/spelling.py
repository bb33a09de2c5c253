"""A path as the file system itself spells it, which is how a kernel compares it.

On macOS ``/users/A`` and ``/Users/a`` are one folder, and so are two ways to write an accent; ``os.path.realpath``
keeps what was typed. A rule for what was typed would give nothing, and a home folder in other letters would not be
known.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locara_sidecar.machine.macos.darwin import Darwin


def spelt(path: str, mac: Darwin | None = None) -> str:
    """``path`` without links, in the file system's own letters as far as it can be opened."""
    real = os.path.realpath(path)
    if sys.platform != "darwin":
        return real
    from locara_sidecar.machine.macos import darwin  # loads ctypes

    try:
        return (mac or darwin.Darwin()).real_path(real)
    except OSError:  # not there (yet), or not ours
        return real
