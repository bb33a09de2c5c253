"""The engine's client: runs one engine at a time, keeps it warm, watches it, and replaces it after a crash.

Everything here runs on the event loop's thread (asyncio, as anyio's backend) and never blocks it. When to start and end
an engine is up to :mod:`~locara_sidecar.daemon.engine_host.supervision`; what a job means is up to the daemon.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from locara_protocol.messages import EngineStatus
from locara_sidecar.daemon.engine_host import failures
from locara_sidecar.daemon.engine_host.request import JobEvent, Request
from locara_sidecar.daemon.engine_host.supervision.lifecycle import Deadline, Event
from locara_sidecar.daemon.engine_host.supervision.supervisor import Supervisor
from locara_sidecar.daemon.engine_host.transport.process import ChildProcess
from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locara_protocol.errors import RpcError
    from locara_sidecar.daemon.engine_host.program import Program
    from locara_sidecar.daemon.engine_host.request import Command, Result
    from locara_sidecar.daemon.engine_host.transport.interface import Transport

__all__ = ["EngineClient", "JobEvent"]

_GONE_AFTER = 5.0  # seconds that a killed process may take to go (a driver can hold it) before we stop waiting
_EXIT_GRACE = 1.0  # seconds from Exit to SIGKILL


class EngineClient:
    """One engine of one kind. Create and use it on one event loop.

    :param engine: ``fake``, ``torch`` or ``mlx``.
    :param idle_unload: seconds without a job after which the process is ended; ``inf`` never.
    :param stall_timeout: seconds without any sign of progress in a job after which the engine is killed.
    :param on_log: called on the loop with the engine's log records and the lines of its stderr (level debug).
    :param readable: returns the folders of the models that a newly started engine may read, in addition to the one that
        its job needs. An engine that lacks a job's folder is replaced, because a sandbox cannot be widened.
    :param settings: switches for the engine itself (torch's ``compile``, MLX's ``prefer_float16``, the fake engine's
        faults).
    :param transport: where engines are started; default: as child processes of this one.
    :param cancel_grace: seconds that the engine has to stop a cancelled job before it is killed; more if the job's
        blocks have been slow so far (``pauses.py``).
    :param start_timeout: seconds from spawning the process to its first answer, including the import of its libraries.
    :param stuck_after: seconds of silence in a job after which :meth:`status` reports the engine as stuck.
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
        transport: Transport | None = None,
        cancel_grace: float = 2.0,
        start_timeout: float = 120.0,
        stuck_after: float = 10.0,
    ) -> None:
        self._engine = engine
        self._stuck_after = min(stuck_after, stall_timeout / 2)
        seconds = {
            Deadline.START: start_timeout,
            Deadline.STALL: stall_timeout,
            Deadline.CANCEL: cancel_grace,
            Deadline.IDLE: idle_unload,
            Deadline.EXIT: _EXIT_GRACE,
            Deadline.GONE: _GONE_AFTER,
        }
        self._supervisor = Supervisor(
            engine,
            transport or ChildProcess(),
            seconds,
            on_log=on_log,
            readable=readable,
            settings=dict(settings or {}),
        )

    @property
    def engine(self) -> str:
        """The engine's name as requested."""
        return self._engine

    @property
    def device(self) -> str | None:
        """The device that the running engine reported; None if no engine runs."""
        return None if (ready := self._supervisor.ready) is None else ready.device

    @property
    def note(self) -> str | None:
        """The running engine's remark on its device, if any."""
        return None if (ready := self._supervisor.ready) is None else ready.note

    @property
    def sandbox(self) -> frames.SandboxReport | None:
        """What the most recently started engine found out about its confinement; None before the first."""
        return self._supervisor.sandbox

    def status(self) -> EngineStatus:
        """The engine's current state; a dead process is reported at once, even before its pipe has been read.

        ``last_progress_ms`` is the time since the last sign of progress, while progress is expected.
        """
        lifecycle, connection = self._supervisor.lifecycle, self._supervisor.connection
        if connection is None or not lifecycle.live or not connection.alive:
            lost = lifecycle.live or lifecycle.lost
            return EngineStatus(state="dead" if lost else "stopped", pid=None, model=None, last_progress_ms=None)
        silence = asyncio.get_running_loop().time() - self._supervisor.progress
        if lifecycle.starting:
            state = "starting"
        elif lifecycle.at_work:
            state = "stuck" if silence >= self._stuck_after else "busy"
        else:
            state = "idle"
        return EngineStatus(
            state=state,
            pid=connection.pid,
            model=self._supervisor.model,
            last_progress_ms=None if state == "idle" else max(0, round(silence * 1000)),
        )

    def saw(self, program: Program | None) -> None:
        """Set what engines are started from, None if it does not exist: the next job gets a new engine if the folder of
        the running one was replaced.
        """
        self._supervisor.program = program

    @property
    def outdated(self) -> bool:
        """Whether the folder that the last engine was started from has since been replaced, or is gone."""
        return self._supervisor.started_from != self._supervisor.program

    def replace(self, failure: RpcError) -> None:
        """Let a new engine do the job that failed in an outdated one.

        :param failure: how it failed, for the log.
        :raises RpcError: EngineUnavailable if there is nothing to start one from; the failure if there will be no
            other.
        """
        supervisor = self._supervisor
        if supervisor.lifecycle.closed:
            raise failure
        if supervisor.program is None:
            raise failures.unavailable(self._engine, "the folder that it is started from is gone") from failure
        supervisor.retire(
            f"a job failed ({failure.kind}) after the engine's files had been replaced; it starts over in another one"
        )

    async def run(self, spec: frames.JobSpec, on_event: Callable[[JobEvent], None]) -> frames.Done:
        """Run one job, starting the engine if needed; ``on_event`` is called on the loop, in order.

        Cancelling the caller's task cancels the job too. A job that finished before the cancel reached it returns its
        :class:`~locara_sidecar.ipc.frames.Done`.

        :raises RpcError: EngineUnavailable (it cannot start; ``reason``, or ``signal``/``status``),
            EngineCrashed (``signal`` or ``status``, ``phase``), EngineStalled (``phase``, ``seconds``),
            RequestCancelled, or the kind that the engine gave the failure.
        """
        done = await self._perform(frames.Generate(spec=spec), on_event)
        assert isinstance(done, frames.Done)
        return done

    async def load(self, spec: frames.LoadSpec, on_event: Callable[[JobEvent], None]) -> frames.Loaded:
        """Load a model ahead of its first job, like :meth:`run`; ``on_event`` gets loading phases only.

        :raises RpcError: as :meth:`run`.
        """
        loaded = await self._perform(frames.Load(spec=spec), on_event)
        assert isinstance(loaded, frames.Loaded)
        return loaded

    async def prepare(self, spec: frames.PrepareSpec, on_event: Callable[[JobEvent], None]) -> frames.Prepared:
        """Quantize a model and write it to ``spec.into``, in a process that may write there and that has ended by the
        time this returns, so that nothing can change the files. ``on_event`` gets loading phases only.

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
        """End the engine that was started for ``spec``, if it still runs, and return when it is gone."""
        supervisor = self._supervisor
        if (request := supervisor.request) is not None and request.spec is spec:  # abandoned: it is being cancelled
            await request.ended.wait()
        if supervisor.into == spec.into:
            supervisor.offer(Event.RELEASE)
            await supervisor.gone.wait()

    async def _perform(self, command: Command, on_event: Callable[[JobEvent], None]) -> Result:
        supervisor = self._supervisor
        while supervisor.request is not None and supervisor.request.abandoned:
            await supervisor.request.ended.wait()
        if supervisor.lifecycle.closed:
            raise failures.unavailable(self._engine, "it is shutting down")
        request = Request(command, on_event)
        supervisor.submit(request)
        try:
            await request.ended.wait()
        finally:
            if not request.ended.is_set():  # the caller's task was cancelled
                request.abandoned = True
                self.cancel(request.spec.job)
        return request.result()

    def cancel(self, job: str) -> None:
        """Stop job ``job`` if it is running; otherwise, or the second time, do nothing."""
        request = self._supervisor.request
        if request is not None and request.spec.job == job:
            self._supervisor.offer(Event.CANCEL)

    async def unload(self) -> bool:
        """End an engine without a job, freeing its memory; return whether there was one."""
        if not self._supervisor.offer(Event.UNLOAD):
            return False
        await self._supervisor.gone.wait()
        return True

    async def close(self) -> None:
        """End the engine for good; a running job gets RequestCancelled. Returns when the process is gone."""
        self._supervisor.feed(Event.CLOSE)
        await self._supervisor.gone.wait()

    def close_now(self) -> None:
        """Kill the engine without waiting, for a daemon that is about to exit.

        A running job ends with RequestCancelled, if the loop still gets to it.
        """
        self.kill()
        self._supervisor.feed(Event.ABORT)
        if (connection := self._supervisor.connection) is not None:
            connection.discard_scratch()

    def kill(self) -> None:
        """Only kill the engine; from any thread, whatever the event loop is doing."""
        self._supervisor.kill()
