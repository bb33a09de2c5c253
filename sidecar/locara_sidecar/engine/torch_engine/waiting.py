"""How OpenMP's threads wait for each other: by spinning on an idle machine, by sleeping when others need the CPU.

A network of many short layers makes its threads wait thousands of times a second. Spinning is the fastest way to wait
as long as every thread has a core. When another program needs one, the scheduler takes it from a working thread as
readily as from a spinning one, and all others spin until that thread runs again. Sleeping threads give up their core
instead, but each wait costs two wake-ups. No fixed spin time suits both cases (see ``make bench-waiting``), so the
choice is revised continually, based on how long our threads waited for a core, which Linux reports.

GNU's runtime, which torch ships on Linux, reads its settings only once. But it reduces spinning (from 300,000
iterations to 100) while a process has more OpenMP threads than there are processors; see ``GOMP_SPINCOUNT`` in its
manual. So creating idle teams makes all threads sleep, and ending these teams lets them spin again.
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
_SPINNING_WINDOW = 0.1  # seconds: spinning next to others is expensive, so it is detected soon
_SLEEPING_WINDOW = 0.25
_BUSY_WINDOWS = 2  # in a row: a single one may be a moment's work of the system
_QUIET_WINDOWS = 2
_BUSY = 0.2
"""Seconds per second that our threads, in total, waited for a core.

With a small SD3 on two cores: 0.00 to 0.03 on an idle machine, and 0.46 to 0.73 with one other busy program, whether
spinning or sleeping; 1.0 with two busy programs and spinning.
"""
_QUIET = 0.1
_FIRST_REST, _LONGEST_REST = 1.0, 4.0
"""Bounds of the minimum time to sleep, in seconds, after spinning proved wrong.

On two cores sleeping takes 1.3 to 1.4 times as long if nobody else needs a core, as long as it is continued by
mistake. To try spinning every four seconds costs at most the two windows in which it proves wrong.
"""


class Waiting:
    """Chooses how threads wait; call :meth:`tick` often during work on the CPU.

    :param sleep: called with True to make threads sleep from now on, and with False to let them spin again.
    :param delayed: returns the total seconds that the threads of this process have waited for a core; None if unknown.
    :param clock: in seconds.
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
        self._busy = self._quiet = 0  # windows in a row
        self.sleeping = False

    def begin(self) -> None:
        """Start of work.

        The time between two jobs does not count, but the last job's measurement goes on: a job of a tenth of a second
        is too short for a window of its own.
        """
        self._since = self._clock() - self._worked
        self._before = (self._delayed() or 0.0) - self._waited

    def end(self) -> None:
        """End of work."""
        self._worked = self._clock() - self._since
        self._waited = max(0.0, (self._delayed() or 0.0) - self._before)  # ended threads are not counted

    def tick(self) -> None:
        """Called when some work was done. Costs next to nothing unless a window is over."""
        took = self._clock() - self._since
        if took < (_SLEEPING_WINDOW if self.sleeping else _SPINNING_WINDOW):
            return
        before = self._before
        self._since, self._before = self._clock(), self._delayed() or 0.0
        delay = (self._before - before) / took
        self._busy = self._busy + 1 if delay > _BUSY else 0
        self._quiet = self._quiet + 1 if delay < _QUIET else 0
        if not self.sleeping:
            if self._busy >= _BUSY_WINDOWS:
                self._be_busy()
        elif self._quiet >= _QUIET_WINDOWS and self._since - self._changed >= self._rest:
            self._change(sleeping=False)

    def _be_busy(self) -> None:
        spun = self._since - self._changed
        self._rest = _FIRST_REST if spun > _LONGEST_REST else min(self._rest * 2, _LONGEST_REST)
        self._change(sleeping=True)

    def _change(self, *, sleeping: bool) -> None:
        self.sleeping, self._changed = sleeping, self._since
        self._busy = self._quiet = 0
        self._sleep(sleeping)


class IdleTeams:
    """Teams of idle OpenMP threads. As long as they exist, no thread of the process spins."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def __call__(self, wanted: bool) -> None:
        """Create or end the teams. If the system allows no more threads, there are fewer or none."""
        if not wanted:
            self._end.set()
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            return
        self._end = threading.Event()
        if sys.platform != "linux":  # not needed elsewhere
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
    """Return how many more teams are needed for more OpenMP threads than processors.

    :param threads: threads per team, at least 2. The runtime does not count the thread that a further team belongs to.
    """
    return max(1, (processors - 1) // (threads - 1))


def _hold(made: threading.Event, end: threading.Event) -> None:
    try:
        torch.zeros(1 << 20).add_(1)  # enough for a parallel region, which creates this thread's team
    finally:
        made.set()
    end.wait()


def delayed() -> float | None:
    """Return how many seconds threads of this process were runnable without a core. Threads that ended do not count."""
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
    """Return the object that chooses for this process, or None if there is no choice.

    That is so on an accelerator, with another runtime than GNU's, if the user's environment already sets how to wait,
    or on a kernel that does not report how long threads wait.
    """
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
