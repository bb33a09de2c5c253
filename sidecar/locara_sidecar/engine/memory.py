"""The memory of this process and this machine, as the operating system counts it; in bytes."""

from __future__ import annotations

import sys
from pathlib import Path


def peak() -> int:
    """The process's largest footprint so far."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def resident() -> int:
    """What the process takes now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def available() -> int:
    """What the machine can still give."""
    import psutil

    return int(psutil.virtual_memory().available)
