"""An engine in a child process with three pipes, as seen from the daemon; ``client.py`` interprets what it sends.

One thread starts the process, waits for its end and reaps it: creating a folder, walking the model's files and forking
may take any time that disk and system need. Each descriptor belongs to exactly one thread, which alone reads or writes
and closes it: the events reader, the stderr reader and the command writer. All report to the event loop with
``call_soon_threadsafe``, so the loop never blocks, not even on an engine that has stopped reading.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import os
import queue
import signal
import subprocess
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from locara_sidecar.daemon.engine_host.output.intake import Intake
from locara_sidecar.daemon.engine_host.output.stderr import LineLimiter
from locara_sidecar.ipc import frames, framing
from locara_sidecar.machine.processes import child_environment, interpreter, priority
from locara_sidecar.machine.processes.child import Child, start_thread
from locara_sidecar.machine.processes.scratch import Scratch, sweep

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 18
_WINDOWS_FLAGS = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(
    subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0
)
MAX_AHEAD = 64
"""Maximum number of unprocessed reads of its pipe, at most 256 KiB each; beyond that the engine waits."""
_DRAIN = 0.15  # seconds to read what a dead process has left in its pipe

_BOOT = (
    "import sys; sys.path += [p for p in sys.argv[2:] if p not in sys.path]; "
    "from locara_sidecar.engine.worker import main; main(int(sys.argv[1]))"
)


def worker_argv() -> list[str]:
    """Return the command line that runs the worker with this interpreter."""
    return interpreter.code(_BOOT, str(os.getpid()))


class ChildProcess:
    """A :class:`~locara_sidecar.daemon.engine_host.transport.interface.Transport` to a worker on this machine.

    :param argv: the command that runs the worker; default: this interpreter.
    """

    def __init__(self, argv: list[str] | None = None) -> None:
        self._argv = argv

    def start(
        self,
        opening: Callable[[str], frames.Start],
        *,
        on_events: Callable[[EngineProcess, list[frames.Event | framing.FrameError]], None],
        on_gone: Callable[[EngineProcess], None],
        on_failed: Callable[[EngineProcess, Exception], None],
        on_lines: Callable[[list[str]], None],
    ) -> EngineProcess:
        """Start a worker.

        :raises OSError: if the system refuses another thread.
        """
        return EngineProcess(
            self._argv,
            opening,
            on_events=on_events,
            on_gone=on_gone,
            on_failed=on_failed,
            on_lines=on_lines,
        )


class EngineProcess:
    """A :class:`~locara_sidecar.daemon.engine_host.transport.interface.Connection` to a worker. Create it on the event
    loop's thread.

    :param argv: the command that runs the worker; None: this interpreter.
    :param opening: builds the first command from the scratch folder, in a thread.
    :param on_events: called on the loop with what arrived, in order; a FrameError is the last event.
    :param on_gone: called on the loop once, after the process has ended and its last events were delivered.
    :param on_failed: called on the loop instead of ``on_gone`` with what kept the process from starting.
    :param on_lines: called on the loop with lines of its stderr (bounded in length and rate).
    :raises OSError: if the system refuses another thread.
    """

    scratch = ""
    """Its folder, once there is one."""

    def __init__(
        self,
        argv: list[str] | None,
        opening: Callable[[str], frames.Start],
        *,
        on_events: Callable[[EngineProcess, list[frames.Event | framing.FrameError]], None],
        on_gone: Callable[[EngineProcess], None],
        on_failed: Callable[[EngineProcess, Exception], None],
        on_lines: Callable[[list[str]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # anyio needs it to find the loop, also without sniffio
        self._on_events = on_events
        self._on_gone = on_gone
        self._on_failed = on_failed
        self._on_lines = on_lines
        self._outgoing: queue.SimpleQueue[frames.Command | None] = queue.SimpleQueue()
        self._child = Child()
        self._ahead = threading.Semaphore(MAX_AHEAD)
        self._intake = Intake()
        self._garbled = False
        self._folder: Scratch | None = None
        self._folder_lock = threading.Lock()
        self._discarded = False
        self._threads: list[threading.Thread] = []
        self._life = start_thread(self._live, argv, opening, name="engine-life")

    def _live(self, argv: list[str] | None, opening: Callable[[str], frames.Start]) -> None:
        """Run the process from start to end, in one thread: on Linux the worker dies with the thread that
        started it.
        """
        try:
            self._start(argv or worker_argv(), opening)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the caller is told
            self._child.not_started()
            self.close_input()
            self.discard_scratch()
            self._post(self._on_failed, self, error)
        else:
            self._wait()

    def _start(self, argv: list[str], opening: Callable[[str], frames.Start]) -> None:
        """Start the process.

        :raises OSError: if there can be no folder, process or thread, or it was killed before it began.
        """
        with self._folder_lock:
            if not self._discarded:
                self._folder = Scratch()
                self.scratch = self._folder.path
        start = opening(self.scratch)
        if self._discarded:
            raise OSError(errno.ECANCELED, "the start was abandoned")
        self._child.begin()
        popen, command_fd, event_fd, stderr_fd = _spawn(argv, self.scratch)
        self._child.started(popen)
        ends = {"events": event_fd, "stderr": stderr_fd, "commands": command_fd}
        uses = {
            "events": self._read_events,
            "stderr": self._read_stderr,
            "commands": partial(self._write_commands, start=start),
        }
        try:
            for name, use in uses.items():
                self._threads.append(start_thread(use, ends[name], name=f"engine-{popen.pid}-{name}"))
                del ends[name]  # it closes it
            priority.answer_promptly()
        except Exception:  # whatever it is: a failed start leaves no process
            self._child.reap()
            for fd in ends.values():
                os.close(fd)
            raise

    @property
    def pid(self) -> int | None:
        """The worker's process id, once it is started."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs or is being started; asks the system, not the pipe."""
        return self._child.alive

    def send(self, command: frames.Command) -> None:
        """Queue a command; never blocks, and has no effect when the process is gone."""
        if isinstance(command, (frames.Generate, frames.Load, frames.Prepare)):
            self._intake.expect(command.spec)
        self._outgoing.put(command)

    def close_input(self) -> None:
        """Close the command pipe after the queued commands: the worker ends at the end of its input."""
        self._outgoing.put(None)

    def kill(self) -> None:
        """Send SIGKILL to the process and its children, even if it is still starting; ``on_gone`` or ``on_failed``
        follows. From any thread.
        """
        self._child.kill()

    def exit_data(self) -> dict[str, Any]:
        """Return how the process ended, as in an error's data: ``{"signal": "SIGSEGV"}`` or ``{"status": 1}``."""
        code = self._child.status
        if code is None or code >= 0:
            return {"status": code}
        try:
            return {"signal": signal.Signals(-code).name}
        except ValueError:  # a real-time signal has no name
            return {"signal": f"SIG{-code}"}

    def discard_scratch(self) -> None:
        """Remove the scratch folder; otherwise done when the process has ended."""
        with self._folder_lock:
            self._discarded = True
            if self._folder is not None:
                self._folder.discard()

    # --- the threads ------------------------------------------------------------------------

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(call, *args, context=self._context)

    def _read_events(self, fd: int) -> None:
        preamble: bytes | None = b""
        try:
            while not self._garbled and (data := _read(fd)):
                if preamble is not None:  # whatever start-up code printed before the worker took over the pipe
                    preamble = (preamble + data)[-framing.MAX_PREAMBLE_BYTES :]
                    _, found, data = preamble.partition(framing.PREAMBLE)
                    if not found:
                        continue
                    preamble = None
                self._ahead.acquire()
                self._post(self._take, data)
        finally:
            os.close(fd)

    def _take(self, data: bytes) -> None:
        """Deliver on the event loop, one by one, the events of one read. Only bytes wait for that: decoded events can
        be many times larger."""
        self._ahead.release()
        if self._garbled:
            return
        try:
            for event in self._intake.feed(data):
                self._on_events(self, [event])
        except framing.FrameError as error:
            self._garbled = True
            self._on_events(self, [error])

    def _read_stderr(self, fd: int) -> None:
        limiter = LineLimiter()
        try:
            while data := _read(fd):
                if lines := limiter.feed(data):
                    self._post(self._on_lines, lines)
            if lines := limiter.end():
                self._post(self._on_lines, lines)
        finally:
            os.close(fd)

    def _write_commands(self, fd: int, start: frames.Start) -> None:
        command: frames.Command | None = start
        try:
            while command is not None:
                for piece in framing.in_pieces(command):
                    view = memoryview(framing.encode(piece))
                    while view:
                        view = view[os.write(fd, view) :]
                command = self._outgoing.get()
        except OSError:  # the process has closed its end: on_gone follows
            pass
        finally:
            os.close(fd)

    def _wait(self) -> None:
        sweep(self.scratch)
        self._child.wait()
        self._child.reap()
        self.close_input()
        events, stderr, *_ = self._threads
        events.join(_DRAIN)
        self.discard_scratch()  # first: a daemon that waits for this then ends, and this thread with it
        self._post(self._on_gone, self)
        stderr.join(1.0)


def _spawn(argv: list[str], scratch: str) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """Start ``argv`` with three pipes; return the process and the daemon's ends: commands, events, stderr.

    It gets its own process group: Ctrl-C in a terminal reaches only the daemon, which decides. It runs in its scratch
    folder, so that nothing is left in the host's working directory.
    """
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe()
        command_out, command_in, event_out, event_in, stderr_out, stderr_in = fds
        popen = subprocess.Popen(
            argv,
            stdin=command_out,
            stdout=event_in,
            stderr=stderr_in,
            cwd=scratch,
            env=child_environment.of_engine(),
            close_fds=True,
            process_group=0,
            creationflags=_WINDOWS_FLAGS,
        )
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    for fd in (command_out, event_in, stderr_in):
        os.close(fd)
    return popen, command_in, event_out, stderr_out


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError:
        return b""
