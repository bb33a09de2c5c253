"""Checks the process's resource limits before anything is accepted.

Running out later can strike anywhere: in an import, in the event loop's own pipes, in a thread that dies before it
runs. So at startup a host whose limits are too low learns which one to raise.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_SPACE = 128 << 20
"""Address space in bytes, on top of the interpreter's: measured 41 MiB for a session with a job after
:func:`_be_frugal` (Linux, glibc 2.36), plus room for 40 threads and long lines.
"""
_FILES = 96
"""Descriptors, in addition to those already open: measured 23 for a session with a job and a model check at once, plus
64 that ``capability/files/picked.py`` keeps free of picked files.
"""
_STACK = 1 << 20
_M_ARENA_MAX = -8  # <malloc.h> of glibc


def check() -> None:
    """Check the limits, and use little address space if that is limited. Call it before any thread is started.

    :raises RuntimeError: with what is missing and how to fix it.
    """
    if os.name != "posix":
        return
    if not _has_files():  # first, because the other check needs some
        raise RuntimeError(f"it needs {_FILES} more open files than it has; {_files_advice()}")
    if _limit("RLIMIT_AS") is not None or _limit("RLIMIT_DATA") is not None:
        _be_frugal()
    if not _has_space():
        raise RuntimeError(f"it needs {_SPACE >> 20} MiB more address space than it has; {_space_advice()}")


def _limit(name: str) -> int | None:
    """Return the limit with that name in ``resource``; None if there is none, or it is unknown."""
    if sys.platform == "win32":
        return None
    try:
        import resource

        soft, _ = resource.getrlimit(getattr(resource, name))
    except (ImportError, AttributeError, ValueError, OSError):
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def _be_frugal() -> None:
    """Reserve 1 MiB for each thread, instead of a stack of 8 MiB and, with glibc, a heap of 64 MiB.

    These are only reservations, so this gains nothing if address space is unlimited. Under a limit the heaps would use
    it up, and whatever comes next (a stack, a library) would find none.
    """
    threading.stack_size(_STACK)
    with contextlib.suppress(OSError, ImportError, AttributeError, MemoryError):  # AttributeError: not glibc
        import ctypes

        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _has_space() -> bool:
    if sys.platform == "win32":
        return True
    try:
        import mmap

        mmap.mmap(-1, _SPACE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError, ImportError):
        return False
    return True


def _has_files() -> bool:
    held: list[int] = []
    try:
        held.extend(os.pipe())  # unrelated to any file system, which may lack files that should exist
        while len(held) < _FILES:
            held.append(os.dup(held[0]))
    except OSError:
        return False
    finally:
        for fd in held:
            os.close(fd)
    return True


def _space_advice() -> str:
    for name, letter in (("RLIMIT_AS", "v"), ("RLIMIT_DATA", "d")):
        if (limit := _limit(name)) is not None:
            return f"raise `ulimit -{letter}`, which is {limit >> 10} KiB here; unlimited is best"
    return "raise `ulimit -v` or `ulimit -d` if one is set, or end other programs"


def _files_advice() -> str:
    limit = _limit("RLIMIT_NOFILE")
    now = "" if limit is None else f", which is {limit} here,"
    return f"raise `ulimit -n`{now} to at least 256"
