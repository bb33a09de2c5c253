"""Which process gets a contended processor: the daemon at once, the engine afterwards.

The engine has a lower priority. That alone does not wake the daemon in time on Linux: a thread that computes keeps
its processor until its slice is over (about 3 ms, or the next tick of the clock), and a ``ping`` waits for five
threads in turn. Threads that ask for shorter slices do not wait for it (since Linux 6.12; EEVDF's custom slices).
With both cores busy sampling, ``ping``'s 99th percentile in ``make bench`` was 3.6 and 4.6 ms with it; before it the
same pings took 3.6 to 5.6 ms (seven runs by hand, not paired with those).
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

_NICE = 1
"""Where every core is wanted, each level costs: steps of a small SD3 on
two cores beside two busy programs took 0.45 to 0.68 s at 0, 0.80 at 1, 1.08 at 2 and 1.52 at 5, plain diffusers 0.89
(ours asleep while waiting, see below; one run each). At 5, as it was, drawing on a busy machine was slower than with
diffusers alone. ``ping`` does not need more: its 99th percentile while drawing was 2.1 ms at 0."""
_SHORTEST_SLICE = 100_000  # ns; the kernel takes no less
_SPINNING = frozenset({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"})
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


def wait_asleep() -> None:
    """Have the threads of LLVM's and Intel's OpenMP sleep while they wait for each other, not spin. To be called before
    torch is imported.

    With GNU's, which torch brings on Linux, it is chosen while drawing (``torch_engine/waiting.py``). These other two
    were never measured here. What the user's environment says stays.
    """
    if _SPINNING.isdisjoint(os.environ):
        os.environ["KMP_BLOCKTIME"] = "0"  # GNU's does not heed it


def step_back() -> None:
    """Let everything else go first: this process and the threads that it starts."""
    if sys.platform != "win32":
        os.nice(_NICE)


def answer_promptly() -> None:
    """Have the threads of this process that run now woken at once; on other systems nothing.

    To be called *after* a child was started that is not to have it too: children inherit it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    import ctypes  # here: the daemon's first answer does without

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
                continue  # somebody has decided otherwise
            wanted = Attributes(
                size=ctypes.sizeof(Attributes),
                policy=os.SCHED_OTHER,
                nice=os.getpriority(os.PRIO_PROCESS, thread),
                runtime=_SHORTEST_SLICE,
            )
            set_attributes(number, thread, ctypes.byref(wanted), 0)  # refused or unknown: as it was
