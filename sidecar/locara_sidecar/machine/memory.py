"""The memory of this process and others, as the operating system measures it; in bytes.

On a Mac that is the *footprint*: resident memory does not include what Metal has allocated and what was compressed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Generator

    from locara_sidecar.machine.macos.darwin import Usage

# <malloc.h> of glibc: mallopt's parameters, and the values at which glibc itself arrives after large blocks were freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE, _LARGEST, _TRIM = 256 << 10, 32 << 20, 64 << 20  # bytes


def peak() -> int:
    """Return the process's largest footprint so far."""
    if (usage := _mac_usage()) is not None:
        return usage.peak
    if (highest := _highest(Path("/proc/self/status"))) is not None:
        return highest
    if sys.platform == "win32":
        return 0
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def resident() -> int:
    """Return what the process takes now."""
    if (usage := _mac_usage()) is not None:
        return usage.footprint
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):  # no /proc
        return peak()


def resident_of(pid: int) -> int | None:
    """Return what another process of ours takes now; None if it has ended or the system does not say."""
    if (usage := _mac_usage(pid)) is not None:
        return usage.footprint
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).memory_info().rss)
    return None


def peak_of(pid: int) -> int | None:
    """Return the largest footprint so far of another process of ours; None if the system does not say."""
    if (usage := _mac_usage(pid)) is not None:
        return usage.peak
    return _highest(Path(f"/proc/{pid}/status"))


@contextlib.contextmanager
def large_blocks_apart() -> Generator[None]:
    """Within the block, let glibc's ``malloc`` give every large allocation its own mapping, which is returned to the
    system as soon as it is freed.

    Otherwise temporary and permanent blocks alternate in one heap, and the holes that remain fit nothing: quantizing 64
    layers of 2 MB while loading them took up to 187 MB, of which 67 MB were the result; now it is 90 MB each time
    (2 cores, Linux, glibc 2.36). Does nothing elsewhere.
    """
    glibc = _glibc()
    if glibc is None:
        yield
        return
    glibc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        glibc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        glibc.mallopt(_M_TRIM_THRESHOLD, _TRIM)  # once a threshold is set, it no longer follows the other one


def give_back() -> None:
    """Make glibc return the free memory within its heap to the system; takes a millisecond or two.

    By itself it does so only at the heap's end. This slows the growth of a daemon that passes on many pictures, but
    does not stop it (``make campaign-soak``). Does nothing elsewhere.
    """
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library, if it is glibc."""
    if sys.platform != "linux":
        return None
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _highest(status: Path) -> int | None:
    """Return a process's peak memory as Linux reports it."""
    with contextlib.suppress(OSError):
        for line in status.read_bytes().splitlines():  # bytes: a confined engine might not find the codec any more
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _mac_usage(pid: int | None = None) -> Usage | None:
    """Return what macOS counts of this process, or of another one of the same user; None if the system does not have
    this or does not say.
    """
    if sys.platform != "darwin":
        return None
    from locara_sidecar.machine.macos import darwin  # loads ctypes: slow, and not needed for the daemon's first answer

    with contextlib.suppress(OSError):
        return darwin.Darwin().usage(pid or os.getpid())
    return None
