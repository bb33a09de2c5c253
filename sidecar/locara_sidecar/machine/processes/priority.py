"""Decides which process gets a contended CPU: the daemon at once, the engine afterwards.

The engine has a lower priority. On Linux, that alone does not wake the daemon in time: a compute-bound thread keeps its
CPU until its slice is over (about 3 ms, or the next timer tick), and a ``ping`` waits for five threads in turn. Threads
with shorter slices do not wait for it (since Linux 6.12; EEVDF's custom slices). With both cores busy sampling,
``ping``'s 99th percentile in ``make bench`` was 3.6 and 4.6 ms with it; before it the same pings took 3.6 to 5.6 ms
(seven runs by hand, not paired with those).
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

_NICE = 1
"""When every core is busy, each level costs: steps of a small SD3 on two cores next to two busy programs took 0.45 to
0.68 s at 0, 0.80 at 1, 1.08 at 2 and 1.52 at 5, plain diffusers 0.89 (our threads sleeping while they wait, see below;
one run each). At 5, the earlier value, drawing on a busy machine was slower than with diffusers alone. ``ping`` does
not need more: its 99th percentile while drawing was 2.1 ms at 0.
"""
_SHORTEST_SLICE = 100_000  # ns; the kernel's minimum
_SPINNING = frozenset({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"})
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


def wait_asleep() -> None:
    """Make the threads of LLVM's and Intel's OpenMP sleep while they wait for each other, instead of spinning. Call it
    before torch is imported.

    For GNU's, which torch brings on Linux, this is chosen while drawing (``torch_engine/waiting.py``). The other two
    were never measured here. Values in the user's environment take precedence.
    """
    if _SPINNING.isdisjoint(os.environ):
        os.environ["KMP_BLOCKTIME"] = "0"  # GNU's ignores it


def step_back() -> None:
    """Let everything else go first: this process and the threads that it starts."""
    if sys.platform != "win32":
        os.nice(_NICE)


def answer_promptly() -> None:
    """Make the system wake this process's current threads at once; does nothing on other systems.

    Call it *after* starting a child that is not to have this too: children inherit it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    import ctypes  # slow, and not needed for the daemon's first answer

    class Attributes(ctypes.Structure):
        _fields_ = (
            ("size", ctypes.c_uint32),
            ("policy", ctypes.c_uint32),
            ("flags", ctypes.c_uint64),
            ("nice", ctypes.c_int32),
            ("priority", ctypes.c_uint32),
            ("runtime", ctypes.c_uint64),
            ("deadline", ctypes.c_uint64),
            ("period", ctypes.c_uint64),
        )

    set_attributes = ctypes.CDLL(None).syscall
    with contextlib.suppress(OSError):  # no /proc, or a thread that has just ended
        for task in Path("/proc/self/task").iterdir():
            thread = int(task.name)
            if os.sched_getscheduler(thread) != os.SCHED_OTHER:
                continue  # somebody has set another policy
            wanted = Attributes(
                size=ctypes.sizeof(Attributes),
                policy=os.SCHED_OTHER,
                nice=os.getpriority(os.PRIO_PROCESS, thread),
                runtime=_SHORTEST_SLICE,
            )
            set_attributes(number, thread, ctypes.byref(wanted), 0)  # if refused or unknown, nothing changes
