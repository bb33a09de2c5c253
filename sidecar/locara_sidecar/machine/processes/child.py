"""A process of ours that one thread starts and waits for, while other threads may kill it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

_KILL_WAIT = 0.1  # seconds
_LOOK_EVERY = 0.01


class Child:
    """A child process that leads a process group, from before its start to its end.

    One thread calls :meth:`begin`, :meth:`started`, :meth:`wait` and :meth:`reap`; the rest is for any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between reaping and signalling: a reaped pid may belong to another process
        self._popen: subprocess.Popen[bytes] | None = None
        self._reaped = False
        self.killed = False
        """Whether it was to be killed; one that had not begun by then never starts."""
        self.begun = False
        """Whether it was, or is being, started."""

    @property
    def pid(self) -> int | None:
        """Its process id, once it is started."""
        return None if self._popen is None else self._popen.pid

    @property
    def status(self) -> int | None:
        """Its exit status as in :class:`subprocess.Popen`, once it has been reaped."""
        return None if self._popen is None else self._popen.returncode

    @property
    def alive(self) -> bool:
        """Whether it runs or is being started; asks the system, not a pipe."""
        with self._lock:
            if self._reaped or self._popen is None:
                return not self._reaped
            over = ended(self._popen.pid, wait=False)
            return self._popen.returncode is None if over is None else not over  # the waiting thread will know soon

    def begin(self) -> None:
        """Note that it is now being started.

        :raises OSError: ECANCELED, if it was killed before.
        """
        with self._lock:
            if self.killed:
                raise OSError(errno.ECANCELED, "the start was abandoned")
            self.begun = True

    def started(self, popen: subprocess.Popen[bytes]) -> None:
        """Note that it has been started; kill it at once if that was requested meanwhile."""
        with self._lock:
            self._popen = popen
            if self.killed:
                _kill_group(popen)

    def not_started(self) -> None:
        """Note that it could not be started."""
        self._reaped = True

    def kill(self) -> None:
        """Send SIGKILL to the process and its group, even if it is still starting."""
        self.killed = True
        if self._lock.acquire(timeout=_KILL_WAIT):  # else it is being reaped, so it is dead already
            try:
                if self._popen is not None and not self._reaped:
                    _kill_group(self._popen)
            finally:
                self._lock.release()

    def wait(self) -> None:
        """Wait until it has ended."""
        assert self._popen is not None
        if not self._reaped and ended(self._popen.pid, wait=True) is None:
            self._popen.wait()

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but no longer than that; return whether it has ended."""
        assert self._popen is not None
        until = time.monotonic() + seconds
        while self.alive and time.monotonic() < until:
            with self._lock:
                if ended(self._popen.pid, wait=False) is None:
                    self._popen.poll()  # nobody can look without reaping it
            time.sleep(_LOOK_EVERY)
        return not self.alive

    def reap(self) -> None:
        """End it and what is left of its group, and take its exit status; it is gone afterwards."""
        assert self._popen is not None
        with self._lock:
            if not self._reaped:
                _kill_group(self._popen)  # its own children must not keep its pipes or its memory
                self._popen.wait()
                self._reaped = True


def ended(pid: int, *, wait: bool) -> bool | None:
    """Whether a child has ended, without reaping it; None if that is not possible (Windows, and macOS before Python
    3.13). With ``wait``, wait until it has.
    """
    if sys.platform != "win32" and (sys.platform != "darwin" or sys.version_info >= (3, 13)):
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)) is not None
        return True
    return None


def start_thread(target: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """Start a daemon thread.

    :raises OSError: EAGAIN, if the system refuses one.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        raise OSError(errno.EAGAIN, "the system allows no more threads") from None
    return thread


def _kill_group(popen: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to the process and its group; it may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(popen.pid, signal.SIGKILL)
        else:
            popen.kill()
