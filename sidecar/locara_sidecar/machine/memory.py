"""The memory of this process and others, as the operating system counts it; in bytes.

On a Mac that is the *footprint*: resident memory leaves out what Metal has allocated and what was compressed.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Generator

# <libproc.h>, <sys/resource.h>: struct rusage_info_v4 is a UUID and 35 numbers of 64 bits
_RUSAGE_INFO_V4 = 4
_RUSAGE = struct.Struct("=16x35Q")
_PHYS_FOOTPRINT, _LIFETIME_MAX_PHYS_FOOTPRINT = 7, 28
# <malloc.h> of glibc: mallopt's parameters, and where glibc itself ends up after large blocks were freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE, _LARGEST, _TRIM = 256 << 10, 32 << 20, 64 << 20  # bytes


def peak() -> int:
    """The process's largest footprint so far."""
    if (footprints := _mac_footprints()) is not None:
        return footprints[1]
    if (highest := _highest(Path("/proc/self/status"))) is not None:
        return highest
    if sys.platform == "win32":
        return 0
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def resident() -> int:
    """What the process takes now."""
    if (footprints := _mac_footprints()) is not None:
        return footprints[0]
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):  # no /proc
        return peak()


def resident_of(pid: int) -> int | None:
    """What another process of ours takes now; None where it has ended or the system does not tell."""
    if (footprints := _mac_footprints(pid)) is not None:
        return footprints[0]
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).memory_info().rss)
    return None


def peak_of(pid: int) -> int | None:
    """The largest footprint so far of another process of ours; None where the system does not tell."""
    if (footprints := _mac_footprints(pid)) is not None:
        return footprints[1]
    return _highest(Path(f"/proc/{pid}/status"))


@contextlib.contextmanager
def large_blocks_apart() -> Generator[None]:
    """Within the block, glibc's ``malloc`` gives every large piece of memory a mapping of its own, which the system has
    back as soon as it is freed.

    Otherwise what is made on the way and what stays come to lie between each other in one heap, whose holes then fit
    nothing: quantizing 64 layers of 2 MB while loading them took up to 187 MB, of which 67 MB were the result; now it
    is 90 MB each time (2 cores, Linux, glibc 2.36). Elsewhere this does nothing.
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
        glibc.mallopt(_M_TRIM_THRESHOLD, _TRIM)  # a threshold that was set no longer follows the other one


def give_back() -> None:
    """Have glibc return to the system what is free within its heap; takes a millisecond or two.

    It does so by itself only at the heap's end. It slows the growth of a daemon that passes on many pictures and does
    not end it (``make campaign-soak``). Elsewhere it does nothing.
    """
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if sys.platform != "linux":
        return None
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def footprints(rusage: bytes) -> tuple[int, int]:
    """(now, largest so far) of a ``rusage_info_v4``."""
    numbers = _RUSAGE.unpack(rusage)
    return numbers[_PHYS_FOOTPRINT], numbers[_LIFETIME_MAX_PHYS_FOOTPRINT]


def _highest(status: Path) -> int | None:
    """What Linux tells of a process's height."""
    with contextlib.suppress(OSError):
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _mac_footprints(pid: int | None = None) -> tuple[int, int] | None:
    """:func:`footprints` of this process, or another of the same user; None where the system has no such thing or does
    not tell."""
    if sys.platform != "darwin":
        return None
    import ctypes  # the daemon's first answer does not wait for it

    buffer = ctypes.create_string_buffer(_RUSAGE.size)
    try:
        failed = ctypes.CDLL(None).proc_pid_rusage(pid or os.getpid(), _RUSAGE_INFO_V4, buffer)
    except (OSError, AttributeError):
        return None
    return None if failed else footprints(buffer.raw)
