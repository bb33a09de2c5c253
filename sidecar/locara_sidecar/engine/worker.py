"""The engine process: claims its pipes, enters the sandbox, creates one runtime and runs jobs one at a time.

It has two threads from the start. The *listener* reads commands, so that a cancel takes effect at once and a closed
pipe ends the process at once, whatever the main thread is doing. The *main* thread belongs to the runtime. (A third, in
:mod:`locara_sidecar.engine.job`, encodes previews while a job runs.)
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from locara_sidecar.engine import ending, sandbox
from locara_sidecar.engine.job import run_job
from locara_sidecar.engine.load import run_load, run_prepare
from locara_sidecar.engine.runtime import JobCancelled, Runtime, create
from locara_sidecar.ipc import frames, framing
from locara_sidecar.ipc.errors import EngineError, sendable
from locara_sidecar.machine.macos import awake
from locara_sidecar.machine.processes import priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_CHUNK = 1 << 16
_OWN, _PROTOCOL = "locara_sidecar", "locara_protocol"
_HEARTBEAT_EVERY = 0.25  # seconds
_MAX_REASON = 300  # characters
_MAX_FRAMES_LOGGED = 30


class JobControl:
    """The :class:`~locara_sidecar.engine.runtime.Control` of one job."""

    def __init__(self, job: str, send: Callable[[frames.Event], None]) -> None:
        self._heartbeat = frames.Heartbeat(job=job)
        self._send = send
        self._next = 0.0
        self.cancelled = False

    def checkpoint(self) -> None:
        """Send a heartbeat if one is due.

        :raises JobCancelled: if the job was cancelled.
        """
        if self.cancelled:
            raise JobCancelled
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _HEARTBEAT_EVERY
            self._send(self._heartbeat)


class Pipe:
    """The two private file descriptors. A broken pipe means that the daemon is gone, so this process exits too."""

    def __init__(self, command_fd: int, event_fd: int) -> None:
        self._command_fd = command_fd
        self._event_fd = event_fd
        self._reader = framing.FrameReader()
        self._lock = threading.Lock()
        self._write(framing.PREAMBLE)

    def send(self, event: frames.Event) -> None:
        """Write one frame. Thread-safe."""
        self._write(framing.encode(event))

    def commands(self) -> Iterator[list[frames.Command]]:
        """Yield commands as they arrive. Exits the process when the pipe closes or carries an invalid frame."""
        while True:
            try:
                data = os.read(self._command_fd, _CHUNK)
                commands = [framing.decode_command(body) for body in self._reader.feed(data)]
            except (OSError, framing.FrameError):
                os._exit(2)
            if not data:
                os._exit(0)
            yield commands

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._lock:
            try:
                while view:
                    view = view[os.write(self._event_fd, view) :]
            except OSError:
                os._exit(0)


class Worker:
    """Reads commands, drives one runtime and sends its events."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._jobs: queue.SimpleQueue[tuple[frames.AnySpec, JobControl]] = queue.SimpleQueue()
        self._pieces = framing.Pieces()
        self._known: dict[str, JobControl] = {}  # jobs that a Cancel can still reach

    def main(self) -> NoReturn:
        """Serve until the pipe closes."""
        batches = self._pipe.commands()
        start, *rest = next(batch for batch in batches if batch)
        if not isinstance(start, frames.Start) or start.version != frames.VERSION:
            self._refuse(frames.OTHER_VERSION)
        # must happen here: the scratch folder is known, nothing heavy is imported, and there is only one thread
        compiles = "compile" in start.settings
        if compiles:
            ending.guard_group()
        confined = sandbox.confine(start.scratch, start.readable, writable=start.writable, processes=compiles)
        threading.Thread(target=self._listen, args=(rest, batches), name="listener", daemon=True).start()
        _forward_logs(self._pipe.send)
        runtime = self._load(start)
        self._pipe.send(
            frames.Ready(
                version=frames.VERSION,
                engine=runtime.name,
                device=runtime.device,
                pid=os.getpid(),
                sandbox=confined,
                note=runtime.note,
            )
        )
        while True:
            self._work(runtime)

    def _work(self, runtime: Runtime) -> None:
        """Wait for the next job, run it and send its final frame."""
        spec, control = self._jobs.get()
        with awake.awake():
            match spec:
                case frames.JobSpec():
                    last = run_job(runtime, spec, control, self._pipe.send, self._report)
                case frames.LoadSpec():
                    last = run_load(runtime, spec, control, self._pipe.send, self._report)
                case frames.PrepareSpec():
                    last = run_prepare(runtime, spec, control, self._pipe.send, self._report)
        del self._known[spec.job]  # before the final frame is sent: a later cancel finds no job
        self._pipe.send(last)

    def _listen(self, first: list[frames.Command], batches: Iterator[list[frames.Command]]) -> None:
        for command in first:
            self._take(command)
        for commands in batches:
            for command in commands:
                self._take(command)

    def _take(self, command: frames.Command) -> None:
        match command:
            case frames.Piece():
                self._pieces.add(command)
            case frames.Generate() | frames.Load() | frames.Prepare():
                spec = self._pieces.whole(command) if isinstance(command, frames.Generate) else command.spec
                control = self._known[spec.job] = JobControl(spec.job, self._pipe.send)
                self._jobs.put((spec, control))
            case frames.Cancel(job=job):
                if control := self._known.get(job):
                    control.cancelled = True
            case frames.Exit():
                os._exit(0)
            case frames.Start():
                os._exit(2)

    def _load(self, start: frames.Start) -> Runtime:
        """Import and create the runtime, or report why that failed and exit."""
        try:
            return create(start.engine, start.scratch, start.settings)
        except EngineError as error:
            self._refuse(error.message, error)
        except ImportError as error:
            self._refuse(_why_not_imported(error, start.engine), error)
        except Exception as error:  # noqa: BLE001  reported to the daemon, which reports it to the host
            self._refuse(f"it failed to start ({type(error).__name__})", error)

    def _refuse(self, reason: str, error: BaseException | None = None) -> NoReturn:
        if error is not None:
            self._report("the engine cannot start", error)
        self._pipe.send(frames.Unavailable(reason=reason))
        os._exit(0)

    def _report(self, what: str, error: BaseException) -> None:
        """Log where an exception came from. Its text is not logged: it may quote a prompt."""
        self._pipe.send(
            frames.Log(
                level="error",
                logger="engine.worker",
                msg=f"{what}: {type(error).__name__}",
                fields={"traceback": _where(error.__traceback__)},
            )
        )


def main(parent: int = 0) -> NoReturn:
    """Entry point of the process.

    :param parent: the daemon's process id, if known.
    """
    pipe = _claim()
    _prepare(parent)
    try:
        Worker(pipe).main()
    finally:  # not sys.exit: the threads of a numerical library can block an orderly shutdown
        os._exit(1)


class _LogHandler(logging.Handler):
    def __init__(self, send: Callable[[frames.Event], None]) -> None:
        super().__init__()
        self._tell = send

    def emit(self, record: logging.LogRecord) -> None:
        name = record.name.removeprefix(f"{_OWN}.engine.")
        self._tell(frames.Log(level=record.levelname.lower(), logger=name, msg=sendable(record.getMessage())))


def _why_not_imported(error: ImportError, engine: str) -> str:
    """Say what an engine lacks: a package, or something that an installed package needs from the system (memory, a
    library).

    Modules of Python itself, and ours, are in no package that could be installed for this engine.
    """
    name = error.name or "a package"
    whole = name.partition(".")[0]
    if whole in sys.stdlib_module_names or whole in (_OWN, _PROTOCOL):
        whose = "locara-sidecar" if whole in (_OWN, _PROTOCOL) else "Python"
        return f"{name}, a part of {whose}, cannot be imported: its files are missing, or the engine may not read them"
    if isinstance(error, ModuleNotFoundError) or not error.msg:
        from locara_sidecar.machine import bundle

        return f"{name} cannot be imported; {bundle.how_to_have(engine)}"
    return f"{name} is installed but cannot be loaded ({error.msg.splitlines()[0][:_MAX_REASON]})"


def _forward_logs(send: Callable[[frames.Event], None]) -> None:
    """Forward our own log records to the daemon's log. Those of other libraries may quote a prompt and are left out."""
    own = logging.getLogger(_OWN)
    own.setLevel(logging.INFO)
    own.propagate = False
    own.addHandler(_LogHandler(send))


def _claim() -> Pipe:
    """Take over fd 0 and fd 1 before anything else can read or print. Whatever libraries print goes to stderr."""
    pipe_in, pipe_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return Pipe(pipe_in, pipe_out)


def _prepare(parent: int) -> None:
    """Set up the process: die with the daemon, ignore Ctrl-C, write no core file and lower the priority.

    A core file would hold the prompt and the model.
    """
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    priority.wait_asleep()
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    if os.name == "posix":  # on Windows process.py sets these at start
        import resource

        priority.step_back()
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    ending.die_with_parent(parent)


def _uncaught(kind: type[BaseException], _error: BaseException | None, trace: TracebackType | None) -> None:
    text = "\n  ".join([f"uncaught {kind.__name__}", *_where(trace)])
    os.write(2, f"{text}\n".encode(errors="replace"))


def _where(trace: TracebackType | None) -> list[str]:
    """Format a traceback as ``file:line function`` lines, innermost last, without values."""
    summary = traceback.extract_tb(trace)[-_MAX_FRAMES_LOGGED:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in summary]
