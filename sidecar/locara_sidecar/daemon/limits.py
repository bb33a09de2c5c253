"""What the daemon needs of its process's limits, looked at before anything is accepted.

A lack that is met later strikes anywhere: in an import, in the event loop's own pipes, in a thread that dies before it
runs. So a host whose limits are too low is told at the start, and which one to raise.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_SPACE = 128 << 20
"""Address space in bytes, besides what the interpreter has: measured 41 MiB for a session with a job where
:func:`_be_frugal` was called (Linux, glibc 2.36), and room for 40 threads and long lines."""
_FILES = 96
"""Descriptors, besides those that are open: measured 23 for a session with a job and a check of a model at once, and
64 that ``capability/files/picked.py`` keeps free of picked files."""
_STACK = 1 << 20
_M_ARENA_MAX = -8  # <malloc.h> of glibc


def check() -> None:
    """Make sure of them, and get along with little address space where that is limited. Before any thread is started.

    :raises RuntimeError: with what is missing and what would mend it.
    """
    if os.name != "posix":
        return
    if not _has_files():  # first: the other needs some
        raise RuntimeError(f"it needs {_FILES} more open files than it has; {_files_advice()}")
    if _limit("RLIMIT_AS") is not None or _limit("RLIMIT_DATA") is not None:
        _be_frugal()
    if not _has_space():
        raise RuntimeError(f"it needs {_SPACE >> 20} MiB more address space than it has; {_space_advice()}")


def _limit(name: str) -> int | None:
    """The limit of that name in ``resource``; None where there is none, or nothing is known."""
    if sys.platform == "win32":
        return None
    try:
        import resource

        soft, _ = resource.getrlimit(getattr(resource, name))
    except (ImportError, AttributeError, ValueError, OSError):
        return None
    return None if soft == resource.RLIM_INFINITY else soft


def _be_frugal() -> None:
    """Reserve 1 MiB for each thread, in place of a stack of 8 MiB and, with glibc, a heap of 64 MiB.

    They are only reserved, so nothing is gained where address space is not limited. Under a limit the heaps take all
    of it, and what comes next (a stack, a library) finds none.
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
        held.extend(os.pipe())  # of no file system, which may lack what it should have
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
