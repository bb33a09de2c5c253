"""Ensure that an engine process and all its children end with its parent (Linux).

By default an engine may start no processes (``sandbox/linux/calls.py``), so the parent-death signal is enough. An
engine that may compile has its children in its own process group, which they cannot leave, and the daemon kills the
whole group. If the daemon itself is killed meanwhile, only a third process can do that: the guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys

_SET_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


def die_with_parent(parent: int = 0) -> None:
    """Have the kernel kill this process when the thread that started it ends. The sandbox makes this irrevocable.

    :param parent: the parent's process id, if known; if the parent has already ended, this process exits at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:  # it ended before the call above
        os._exit(0)


def guard_group() -> None:
    """Start a process that waits for the end of this one or of its parent, however they end, and then kills what is
    left of its group. (Also its parent's end: a program that a thread of this process becomes has lost the death
    signal.)

    Call this before entering the sandbox, from the only thread of a process group leader. For any other process, and
    where pidfds are not supported (before Linux 5.3), it does nothing. Confined code cannot reach the guard, which
    shares no descriptor and no process group with it.
    """
    leader = os.getpid()
    if sys.platform != "linux" or os.getpgrp() != leader:
        return
    parent = os.getppid()
    try:
        # not a parent-death signal: under Landlock a confined process cannot signal others, not even by dying
        watched = [os.pidfd_open(leader), os.pidfd_open(parent)]
    except OSError:
        return
    if os.getppid() != parent:  # it has ended, and its id may now belong to another process
        os._exit(0)
    if os.fork():
        for fd in watched:
            os.close(fd)
        return
    try:
        os.setsid()
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in watched:
                with contextlib.suppress(OSError):
                    os.close(fd)
        select.select(watched, [], [])
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)
    finally:
        os._exit(0)
