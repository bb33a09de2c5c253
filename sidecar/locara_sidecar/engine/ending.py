"""How a process that draws ends with the one that started it, and all that it started with it (Linux).

Where it may start nothing, which is the rule (``sandbox/linux/calls.py``), the first is enough. One that may, because
it was told to compile, has its children in its own process group, which they cannot leave: the daemon kills that as
one. If the daemon itself is killed meanwhile, only a third process can: the guard.
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
    """Be killed when the thread that started this process ends; the confinement makes it final.

    :param parent: its process id, where it is known: if it has ended already, so does this one, at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:  # it died before the line above
        os._exit(0)


def guard_group() -> None:
    """Start a process that waits for the end of this one or of its parent, however they end, and then kills what is
    left of its group. (Its parent's, too: a program that a thread of this one becomes has no death signal any more.)

    To be called before the confinement, from the only thread, by the leader of a group; else, and where processes
    cannot be waited for by descriptor (before Linux 5.3), nothing is done. The guard is out of reach for what is
    confined afterwards. It has no descriptor and no group in common with it.
    """
    leader = os.getpid()
    if sys.platform != "linux" or os.getpgrp() != leader:
        return
    parent = os.getppid()
    try:
        # not a signal at its end: Landlock lets a confined process send none to others, not even by dying
        watched = [os.pidfd_open(leader), os.pidfd_open(parent)]
    except OSError:
        return
    if os.getppid() != parent:  # it has ended, and its number may be another's
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
