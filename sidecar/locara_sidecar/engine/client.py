"""The daemon's side of the engine: one child process, kept warm, watched, replaced after a crash.

Everything here runs on the event loop's thread (asyncio, as anyio's backend) and nothing blocks it:
the pipes belong to the threads of :mod:`locara_sidecar.engine.process`. The client is a small state
machine driven by what those threads report: :meth:`EngineClient._advance` starts a process when a
job needs one and hands the job over when the process is ready.

Only this file decides when an engine lives and dies; what a job means is the daemon's business.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import anyio

from locara_protocol.errors import CODES, RpcError
from locara_protocol.messages import EngineStatus
from locara_sidecar.engine import failures, frames, framing
from locara_sidecar.engine.process import EngineProcess, worker_argv
from locara_sidecar.engine.stderr import PromptFilter
from locara_sidecar.engine.timers import Timers
from locara_sidecar.models.reach import model_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

JobEvent = frames.PhaseStarted | frames.Step | frames.Image
"""What :meth:`EngineClient.run` reports while a job runs."""

_Command = frames.Generate | frames.Load | frames.Prepare
_Result = frames.Done | frames.Loaded | frames.Prepared
_End = _Result | frames.Failed | frames.Cancelled

_GONE_AFTER = 5.0  # seconds that a killed process may take to go (a driver can hold it) before we stop waiting
_EXIT_GRACE = 1.0  # seconds from Exit to SIGKILL


class _Job:
    """One call of :meth:`EngineClient.run`, ``load`` or ``prepare``: its request, how far it is and how it ended."""

    def __init__(self, command: _Command, on_event: Callable[[JobEvent], None]) -> None:
        self.command = command
        self.spec = command.spec
        self.on_event = on_event
        self.sent = False
        self.heard = False  # the engine has said something about it
        self.again = False  # it is with its second process
        self.cancelled = False
        self.abandoned = False  # nobody waits for it any more; the engine still has to stop
        self.phase = "loading"
        self.result: _Result | Exception | None = None
        self.ended = asyncio.Event()


class EngineClient:
    """One engine of one kind. Create it and use it on one event loop.

    :param engine: ``fake``, ``torch`` or ``mlx``.
    :param idle_unload: seconds without a job after which the process is ended; ``inf`` never.
    :param stall_timeout: seconds without any sign of progress inside a job after which the engine is killed.
    :param on_log: called on the loop with the engine's log records and the lines of its stderr (level debug).
    :param readable: gives the folders of the models that an engine started now may read; the one of the job that
        it is started for comes on top. An engine that lacks a job's folder is replaced: a sandbox cannot be widened.
    :param settings: switches for the engine itself (torch's ``compile``, the fake engine's faults).
    :param argv: the command that runs the worker; default: this interpreter.
    :param cancel_grace: seconds that the engine has to stop a cancelled job before it is killed.
    :param start_timeout: seconds from spawning the process to its first answer (importing its libraries included).
    :param stuck_after: seconds of silence inside a job after which :meth:`status` calls the engine stuck.
    """

    def __init__(
        self,
        engine: str,
        *,
        idle_unload: float = 300.0,
        stall_timeout: float = 120.0,
        on_log: Callable[[frames.Log], None],
        readable: Callable[[], Iterable[str]] = tuple,
        settings: dict[str, str] | None = None,
        argv: list[str] | None = None,
        cancel_grace: float = 2.0,
        start_timeout: float = 120.0,
        stuck_after: float = 10.0,
    ) -> None:
        self._engine = engine
        self._idle_unload = idle_unload
        self._stall_timeout = stall_timeout
        self._on_log = on_log
        self._readable = readable
        self._settings = dict(settings or {})
        self._argv = argv
        self._cancel_grace = cancel_grace
        self._start_timeout = start_timeout
        self._stuck_after = min(stuck_after, stall_timeout / 2)

        self._process: EngineProcess | None = None
        self._ready: frames.Ready | None = None
        self._given: frozenset[str] = frozenset()  # the model folders that the process may read
        self._into: str | None = None  # the folder that it may write to besides its scratch
        self._sandbox: frames.SandboxReport | None = None
        self._ending: EngineProcess | None = None  # told to end, not gone yet
        self._gone = asyncio.Event()  # set when there is neither a process nor one that is ending
        self._gone.set()
        self._lost = False  # the last process ended without being asked to
        self._closed = False
        self._job: _Job | None = None
        self._model: str | None = None
        self._progress = 0.0  # loop time of the last sign of life
        self._prompts = PromptFilter()
        self._timers = Timers()

    # --- what the daemon calls --------------------------------------------------------------

    @property
    def engine(self) -> str:
        """The engine's name as it was asked for."""
        return self._engine

    @property
    def device(self) -> str | None:
        """The device that the running engine told, or None while there is none."""
        return None if self._ready is None else self._ready.device

    @property
    def note(self) -> str | None:
        """What the running engine told of its device in words, if anything."""
        return None if self._ready is None else self._ready.note

    @property
    def sandbox(self) -> frames.SandboxReport | None:
        """What the last engine that started found about its confinement; None before the first."""
        return self._sandbox

    def status(self) -> EngineStatus:
        """The engine's state as of now; a dead process is told at once, also before its pipe was read.

        ``last_progress_ms`` is the time since the last sign of progress, where progress is expected.
        """
        process = self._process
        if process is None or not process.alive:
            lost = process is not None or self._lost
            return EngineStatus(state="dead" if lost else "stopped", pid=None, model=None, last_progress_ms=None)
        silence = asyncio.get_running_loop().time() - self._progress
        if self._ready is None:
            state = "starting"
        elif self._job is None:
            state = "idle"
        else:
            state = "stuck" if silence >= self._stuck_after else "busy"
        return EngineStatus(
            state=state,
            pid=process.pid,
            model=self._model,
            last_progress_ms=None if state == "idle" else max(0, round(silence * 1000)),
        )

    async def run(self, spec: frames.JobSpec, on_event: Callable[[JobEvent], None]) -> frames.Done:
        """Run one job, starting the engine if need be; ``on_event`` is called on the loop, in order.

        If the caller's task is cancelled, the job is cancelled too. A job that finished before the
        cancel reached it returns its :class:`~locara_sidecar.engine.frames.Done`.

        :raises RpcError: EngineUnavailable (it cannot start; ``reason``, or ``signal``/``status``),
            EngineCrashed (``signal`` or ``status``, ``phase``), EngineStalled (``phase``, ``seconds``),
            RequestCancelled, or the kind that the engine gave the failure.
        """
        done = await self._perform(frames.Generate(spec=spec), on_event)
        assert isinstance(done, frames.Done)
        return done

    async def load(self, spec: frames.LoadSpec, on_event: Callable[[JobEvent], None]) -> frames.Loaded:
        """Load a model ahead of its first job, as :meth:`run` runs one; ``on_event`` is told of loading phases only.

        :raises RpcError: as :meth:`run`.
        """
        loaded = await self._perform(frames.Load(spec=spec), on_event)
        assert isinstance(loaded, frames.Loaded)
        return loaded

    async def prepare(self, spec: frames.PrepareSpec, on_event: Callable[[JobEvent], None]) -> frames.Prepared:
        """Have a model quantized and written to ``spec.into``, by a process that may write there and has ended when
        this returns: what it wrote nobody changes any more. ``on_event`` is told of loading phases only.

        :raises RpcError: as :meth:`run`, and InsufficientDisk.
        """
        try:
            prepared = await self._perform(frames.Prepare(spec=spec), on_event)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end_after(spec)
        assert isinstance(prepared, frames.Prepared)
        return prepared

    async def _end_after(self, spec: frames.PrepareSpec) -> None:
        """End the process that was started for ``spec``, if it is still there, and return when it is gone."""
        if self._job is not None and self._job.spec is spec:  # its caller gave it up: it is being cancelled
            await self._job.ended.wait()
        if self._process is not None and self._into == spec.into:
            self._end(now=True)
        if self._into == spec.into:
            await self._gone.wait()

    async def _perform(self, command: _Command, on_event: Callable[[JobEvent], None]) -> _Result:
        while self._job is not None:
            if not self._job.abandoned:
                raise AssertionError("an engine runs one job at a time")
            await self._job.ended.wait()
        if self._closed:
            raise failures.unavailable(self._engine, "it is shutting down")
        job = self._job = _Job(command, on_event)
        self._timers.stop("idle")
        if self._process is not None and not self._process.alive:
            self._forget(self._process, lost=True)
        self._advance()
        try:
            await job.ended.wait()
        finally:
            if not job.ended.is_set():  # the caller's task was cancelled
                job.abandoned = True
                self.cancel(job.spec.job)
        if isinstance(job.result, Exception):
            raise job.result
        assert job.result is not None
        return job.result

    def cancel(self, job: str) -> None:
        """Stop job ``job`` if it is the one at work; anything else, or a second time: nothing happens."""
        current = self._job
        if current is None or current.spec.job != job or current.cancelled:
            return
        current.cancelled = True
        if not current.sent:  # the engine is still starting: that goes on, for the next job
            self._finish(failures.cancelled())
            return
        assert self._process is not None
        self._process.send(frames.Cancel(job=job))
        self._timers.start("cancel", self._cancel_grace, self._cancel_overdue)

    async def unload(self) -> bool:
        """End an engine that has no job and give its memory back; whether there was one to end."""
        if self._job is not None or self._process is None:
            return False
        self._end()
        await self._gone.wait()
        return True

    async def close(self) -> None:
        """End the engine for good; a running job gets RequestCancelled. Returns when the process is gone."""
        self._closed = True
        busy = self._job is not None
        if busy:
            self._finish(failures.cancelled())
        if self._process is not None:
            self._end(now=busy)
        await self._gone.wait()

    def close_now(self) -> None:
        """Kill the engine without waiting for anything, for a daemon that is about to exit.

        A running job ends with RequestCancelled, if the loop ever gets to it.
        """
        self._closed = True
        if self._job is not None:
            self._finish(failures.cancelled())
        for process in (self._process, self._ending):
            if process is not None:
                process.kill()
                process.discard_scratch()
        if self._process is not None:
            self._forget(self._process, lost=False)

    # --- the life of a process --------------------------------------------------------------

    def _phase(self) -> str | None:
        """The phase of the job at work; None while the engine is still starting."""
        return None if self._job is None or self._ready is None else self._job.phase

    def _advance(self) -> None:
        """Take the next step that the current job waits for."""
        job = self._job
        if job is None or job.sent:
            return
        if self._process is not None and not self._suits(job.spec):
            self._end()
        if self._process is None:
            if self._ending is None:  # two engines at once could need twice the memory
                self._spawn(job.spec)
            return
        if self._ready is None:
            return
        job.sent = True
        self._progress = asyncio.get_running_loop().time()
        if isinstance(job.spec, frames.JobSpec):
            self._prompts.watch(job.spec.prompt, job.spec.negative_prompt)
        if job.spec.model.id != self._model:
            self._model = None
        self._process.send(job.command)
        self._timers.start("stall", self._stall_timeout, self._stalled)

    def _suits(self, spec: frames.AnySpec) -> bool:
        """Whether the process may reach what a job needs, and no folder more to write to."""
        return _folders(spec) <= self._given and _into(spec) == self._into

    def _spawn(self, spec: frames.AnySpec) -> None:
        self._given = frozenset(self._readable()) | _folders(spec)
        self._into = _into(spec)
        try:
            process = EngineProcess(
                self._argv or worker_argv(),
                on_events=self._received,
                on_gone=self._died,
                on_lines=self._stderr_lines,
            )
        except OSError as error:
            self._lost = False
            why = error.strerror or type(error).__name__
            self._finish(failures.unavailable(self._engine, f"its process could not be started ({why})"))
            return
        self._process = process
        self._ready = None
        self._lost = False
        self._gone.clear()
        self._progress = asyncio.get_running_loop().time()
        start = frames.Start(
            version=frames.VERSION,
            engine=self._engine,
            scratch=process.scratch,
            settings=self._settings,
            readable=[path for folder in sorted(self._given) for path in model_files(Path(folder))],
            writable=[] if self._into is None else [self._into],
        )
        process.send(start)
        self._timers.start("start", self._start_timeout, self._start_overdue)

    def _end(self, *, now: bool = False) -> None:
        """Ask the process to end, or kill it; :meth:`_died` tells when it is gone."""
        process = self._process
        assert process is not None
        if now:
            process.kill()
        else:
            process.send(frames.Exit())
            process.close_input()
        self._forget(process, lost=False)
        if not now:
            self._timers.start("exit", _EXIT_GRACE, process.kill)
        self._timers.start("gone", _GONE_AFTER, self._died, process)

    def _forget(self, process: EngineProcess, *, lost: bool) -> None:
        """``process`` takes no more jobs; until it is gone no other one is started."""
        assert process is self._process
        self._process = self._ready = self._model = None
        self._ending = process
        self._lost = lost
        self._timers.stop("start", "stall", "cancel", "idle")

    def _died(self, process: EngineProcess) -> None:
        """The process is gone and everything it wrote was read (or a killed one takes too long to go)."""
        if process is self._process:
            phase = self._phase()
            self._forget(process, lost=True)
            if self._job is not None and not self._spared(self._job):
                self._finish(failures.ended(process.exit_data(), phase))
        if process is not self._ending:
            return
        self._ending = None
        self._timers.stop("exit", "gone")
        self._gone.set()
        self._advance()

    def _spared(self, job: _Job) -> bool:
        """Whether ``job`` goes to the next process: the last one died, idle for all we know, as it was sent."""
        if not job.sent or job.heard or job.again or job.cancelled:
            return False
        job.sent, job.again = False, True
        return True

    # --- what the process says --------------------------------------------------------------

    def _received(self, process: EngineProcess, events: list[frames.Event | framing.FrameError]) -> None:
        for event in events:
            if process is not self._process:
                return  # what a process says after it was given up concerns nobody
            self._handle(event)

    def _handle(self, event: frames.Event | framing.FrameError) -> None:
        match event:
            case framing.FrameError():
                self._broken(event)
            case frames.Ready():
                self._started(event)
            case frames.Unavailable():
                self._unavailable(event.reason)
            case frames.Log():
                self._on_log(event)
            case _:
                if self._job is not None and self._job.sent and event.job == self._job.spec.job:
                    self._job.heard = True
                    self._progress = asyncio.get_running_loop().time()
                    self._job_event(self._job, event)

    def _started(self, event: frames.Ready) -> None:
        if event.version != frames.VERSION:
            self._unavailable("the daemon and the engine come from different versions of Locara")
            return
        self._ready = event
        self._sandbox = event.sandbox
        if (found := event.sandbox) is not None:
            level, fields = "info" if found.enforced else "warning", {"kind": found.kind, **found.details}
            self._on_log(frames.Log(level=level, logger="engine.sandbox", msg=found.reason, fields=fields))
        self._timers.stop("start")
        self._start_idle_timer()
        self._advance()

    def _unavailable(self, reason: str) -> None:
        if self._job is not None:
            self._finish(failures.unavailable(self._engine, reason))
        self._end()

    def _broken(self, error: framing.FrameError) -> None:
        """The pipe is of no further use, and so is the process."""
        self._on_log(frames.Log(level="error", logger="engine", msg=f"the engine broke its protocol: {error}"))
        if self._job is not None:
            self._finish(failures.garbled(self._phase()))
        self._end(now=True)
        self._lost = True

    def _job_event(self, job: _Job, event: JobEvent | frames.Heartbeat | _End) -> None:
        match event:
            case frames.Heartbeat():
                pass
            case frames.PhaseStarted() | frames.Step() | frames.Image():
                if isinstance(event, frames.PhaseStarted):
                    job.phase = event.phase
                    self._model = None if event.phase == "loading" else job.spec.model.id
                self._report(job, event)
            case frames.Done() | frames.Loaded() | frames.Prepared():
                self._model = None if isinstance(event, frames.Prepared) else job.spec.model.id
                self._finish(event)
            case frames.Failed():
                kind = event.kind if event.kind in CODES else "InternalError"
                self._finish(failures.cancelled() if job.cancelled else RpcError(kind, event.message, **event.data))
            case frames.Cancelled():
                self._finish(failures.cancelled())
            case _:
                assert_never(event)

    def _report(self, job: _Job, event: JobEvent) -> None:
        if job.abandoned or job.result is not None:
            return
        try:
            job.on_event(event)
        except Exception as error:  # noqa: BLE001  run() raises it, once the engine has stopped
            job.result = error
            self.cancel(job.spec.job)

    def _finish(self, result: _Result | Exception) -> None:
        """The current job has ended; the engine is free, gone, or was given up."""
        job = self._job
        assert job is not None
        if job.result is None:
            job.result = result
        self._job = None
        self._timers.stop("stall", "cancel")
        self._start_idle_timer()
        job.ended.set()

    # --- deadlines --------------------------------------------------------------------------

    def _start_idle_timer(self) -> None:
        if self._ready is not None and self._job is None and not self._closed:
            self._timers.start("idle", self._idle_unload, self._idle_overdue)

    def _idle_overdue(self) -> None:
        if self._job is None and self._process is not None:
            self._end()

    def _start_overdue(self) -> None:
        if self._job is not None:
            self._finish(failures.unavailable(self._engine, f"it did not start within {self._start_timeout:g} s"))
        self._end(now=True)

    def _cancel_overdue(self) -> None:
        self._finish(failures.cancelled())
        self._end(now=True)

    def _stalled(self, *, sure: bool = False) -> None:
        """The stall timer: fires again for the rest of the time if there was progress since it was set.

        A machine that was suspended (or a stopped process group) comes back with the timer overdue and the
        engine's signs of life unread, so the first alarm only sets a second, short one.
        """
        assert self._job is not None
        left = self._progress + self._stall_timeout - asyncio.get_running_loop().time()
        if left > 0:
            self._timers.start("stall", left, self._stalled)
        elif not sure:
            self._timers.start("stall", min(0.5, self._stall_timeout / 4), lambda: self._stalled(sure=True))
        else:
            self._finish(failures.stalled(self._stall_timeout, self._job.phase))
            self._end(now=True)
            self._lost = True

    def _stderr_lines(self, lines: list[str]) -> None:
        for line in lines:
            self._on_log(frames.Log(level="debug", logger="engine.stderr", msg=self._prompts.clean(line)))


def _folders(spec: frames.AnySpec) -> frozenset[str]:
    """The model folders that a job needs; none for the fake engine, whose models have no files."""
    paths = [spec.model.path, *(form.path for form in spec.model.prepared)]
    return frozenset(path for path in paths if os.path.isabs(path))


def _into(spec: frames.AnySpec) -> str | None:
    """The folder that a job writes to besides its scratch."""
    return spec.into if isinstance(spec, frames.PrepareSpec) else None
