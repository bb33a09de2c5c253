"""Ends the daemon, on signals and within the deadline of a stop.

A signal may interrupt the main thread while it holds any lock, so the Python handler does nothing. The interpreter's
own handler, in C, writes the signal's number to a pipe; a thread reads it and may then do anything that a thread may.
The same thread ends the process when a stop takes too long. It is started at the beginning, because by then the system
might refuse a new one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_BEGUN = b"\0"  # no signal has this number


def end_quietly() -> None:
    """Let a signal simply end the daemon until it reads its first line: there is nothing to answer yet.

    Undoes what was inherited from the host: a signal mask; ignored SIGTERM and SIGINT; ignored SIGCHLD, which would
    hide how an engine ended. SIGHUP stays ignored if it was: that is what ``nohup`` is for.
    """
    for number in _numbers():
        signal.signal(number, _end)
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end(*_: Any) -> None:
    os._exit(0)


def _numbers() -> list[signal.Signals]:
    """Return the signals that end the daemon."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class Ending:
    """The thread that receives signals and enforces the deadline.

    :param stop: called in the thread with a signal's name; may raise, but should call :meth:`begin` first.
    :param overdue: called in the thread, ``seconds`` after :meth:`begin`, if the process is still alive.
    """

    def __init__(self, stop: Callable[[str], None], overdue: Callable[[], object], seconds: float) -> None:
        self._stop = stop
        self._overdue = overdue
        self._seconds = seconds
        self._reading, self._writing = os.pipe()
        if sys.platform != "win32":  # available there only from Python 3.12 on
            os.set_blocking(self._writing, False)
        self._thread = threading.Thread(target=self._run, name="ending", daemon=True)

    def start(self) -> None:
        """Receive signals from now until the process ends; call it on the main thread.

        :raises RuntimeError: if the system refuses a thread.
        """
        self._thread.start()
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _numbers():
            signal.signal(number, _heard)

    def begin(self) -> None:
        """Start the deadline: the process has to end within ``seconds``. From any thread; never blocks or raises."""
        with contextlib.suppress(OSError):  # full: the thread has enough to read
            os.write(self._writing, _BEGUN)

    def _run(self) -> None:
        while (number := os.read(self._reading, 1)) != _BEGUN:
            with contextlib.suppress(ValueError):  # a number without a name is not one of our signals
                name = signal.Signals(number[0]).name
                try:
                    self._stop(name)
                except Exception:  # noqa: BLE001 -- whatever happened, the process ends
                    self.begin()
        time.sleep(self._seconds)
        self._overdue()


def _heard(*_: Any) -> None:
    """Do nothing: the pipe has the signal's number already."""
