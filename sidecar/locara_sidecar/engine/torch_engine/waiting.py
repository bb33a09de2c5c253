"""How OpenMP's threads wait for each other: they spin while the machine is quiet, and sleep while others want it.

A network of many short layers makes its threads wait thousands of times a second. Spinning is the fastest way to wait
as long as every thread has a core. When another program wants one, the system takes it from a thread that works as
readily as from one that only spins, and all others spin until that one has its turn again. Sleeping threads leave
their core instead, but each wait costs two wake-ups. No fixed time of spinning is good at both (``make bench-waiting``
shows it), so it is chosen again and again from how long our threads had to wait for a core, which Linux tells.

GNU's runtime, which torch brings on Linux, reads its settings only once. But it stops spinning (100 turns for 300,000)
while a process has more OpenMP threads than there are processors; its manual says so under ``GOMP_SPINCOUNT``. So
threads are made to sleep by teams that have nothing to do, and to spin again by ending these.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_SETTINGS = frozenset({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"})
_TASKS = Path("/proc/self/task")
_SPINNING_WINDOW = 0.1  # seconds: spinning beside others costs much, so it is noticed soon
_SLEEPING_WINDOW = 0.25
_QUIET_WINDOWS = 2
_BUSY = 0.2
"""Seconds that our threads, together, waited for a core, in each second. A small SD3 on two cores: 0.00 to 0.03 on a
quiet machine, 0.46 to 0.73 with one other program busy, whether they spin or sleep; 1.0 with two and spinning."""
_QUIET = 0.1
_FIRST_REST, _LONGEST_REST = 1.0, 30.0  # seconds of sleeping, at least, after spinning was wrong


class Waiting:
    """Chooses; to be told often while something is computed on the processor.

    :param sleep: called with True when the threads are to sleep from now on, with False when they may spin again.
    :param delayed: seconds that the threads of this process have waited for a core, ever; None where nobody knows.
    :param clock: seconds.
    """

    def __init__(
        self,
        sleep: Callable[[bool], None],
        delayed: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._delayed = delayed
        self._clock = clock
        self._since = self._before = 0.0
        self._worked = self._waited = 0.0
        self._rest = _FIRST_REST
        self._changed = -_LONGEST_REST
        self._quiet = 0
        self.sleeping = False

    def begin(self) -> None:
        """Work begins. What was between two jobs does not count, what was found in the last one does: a job of a tenth
        of a second is too short for a window of its own."""
        self._since = self._clock() - self._worked
        self._before = (self._delayed() or 0.0) - self._waited

    def end(self) -> None:
        """Work ends."""
        self._worked = self._clock() - self._since
        self._waited = max(0.0, (self._delayed() or 0.0) - self._before)  # a thread that ended takes its delay with it

    def tick(self) -> None:
        """Some work was done. Costs next to nothing but when it is time to look."""
        took = self._clock() - self._since
        if took < (_SLEEPING_WINDOW if self.sleeping else _SPINNING_WINDOW):
            return
        before, quiet = self._before, self._quiet
        self._since, self._before, self._quiet = self._clock(), self._delayed() or 0.0, 0
        delay = (self._before - before) / took
        if not self.sleeping:
            if delay > _BUSY:
                self._be_busy()
        elif delay < _QUIET:
            self._quiet = quiet + 1
            if self._quiet >= _QUIET_WINDOWS and self._since - self._changed >= self._rest:
                self._change(sleeping=False)

    def _be_busy(self) -> None:
        spun = self._since - self._changed
        self._rest = _FIRST_REST if spun > _LONGEST_REST else min(self._rest * 2, _LONGEST_REST)
        self._change(sleeping=True)

    def _change(self, *, sleeping: bool) -> None:
        self.sleeping, self._changed, self._quiet = sleeping, self._since, 0
        self._sleep(sleeping)


class IdleTeams:
    """Teams of OpenMP threads that have nothing to do: as long as they exist, no thread of the process spins."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def __call__(self, wanted: bool) -> None:
        """Have them, or not. Where the system allows no more threads there are none, and all goes on."""
        if not wanted:
            self._end.set()
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            return
        self._end = threading.Event()
        if sys.platform != "linux":  # nobody asks for them there
            return
        for _ in range(teams(torch.get_num_threads(), len(os.sched_getaffinity(0)))):
            made = threading.Event()
            thread = threading.Thread(target=_hold, args=(made, self._end), name="idle team", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._threads.append(thread)
            made.wait()


def teams(threads: int, processors: int) -> int:
    """How many further teams make more OpenMP threads than there are processors.

    :param threads: those of a team, at least 2. The runtime does not count the thread that a further team belongs to.
    """
    return max(1, (processors - 1) // (threads - 1))


def _hold(made: threading.Event, end: threading.Event) -> None:
    try:
        torch.zeros(1 << 20).add_(1)  # enough for a parallel region, which makes this thread's team
    finally:
        made.set()
    end.wait()


def delayed() -> float | None:
    """Seconds that the threads of this process wanted to run and could not. A thread that has ended is not counted."""
    total = 0
    try:
        for task in os.listdir(_TASKS):
            try:
                total += int((_TASKS / task / "schedstat").read_bytes().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
    except (OSError, ValueError, IndexError):
        return None
    return total / 1e9


def waiting_of(device: str) -> Waiting | None:
    """What chooses for this process; None where there is nothing to choose: on an accelerator, with a runtime that is
    not GNU's, when the user's environment says how to wait, or on a kernel that does not say how long threads wait."""
    if device != "cpu" or sys.platform != "linux" or torch.get_num_threads() < 2:
        return None
    if not _SETTINGS.isdisjoint(os.environ) or not _is_gnu() or delayed() is None:
        return None
    return Waiting(IdleTeams(), delayed)


def _is_gnu() -> bool:
    try:
        return b"libgomp" in Path("/proc/self/maps").read_bytes()
    except OSError:
        return False
