"""The daemon's side of the engine: one at a time, kept warm, watched, replaced after a crash.

Everything here runs on the event loop's thread (asyncio, as anyio's backend) and nothing blocks it. When an engine
lives and dies is decided by :mod:`~locara_sidecar.daemon.engine_host.supervisor`; what a job means is the daemon's
business.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from locara_protocol.messages import EngineStatus
from locara_sidecar.daemon.engine_host import failures
from locara_sidecar.daemon.engine_host.lifecycle import Deadline, Event
from locara_sidecar.daemon.engine_host.request import JobEvent, Request
from locara_sidecar.daemon.engine_host.supervisor import Supervisor
from locara_sidecar.daemon.engine_host.transport.process import ChildProcess
from locara_sidecar.ipc import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locara_sidecar.daemon.engine_host.request import Command, Result
    from locara_sidecar.daemon.engine_host.transport.interface import Transport

__all__ = ["EngineClient", "JobEvent"]

_GONE_AFTER = 5.0  # seconds that a killed process may take to go (a driver can hold it) before we stop waiting
_EXIT_GRACE = 1.0  # seconds from Exit to SIGKILL


class EngineClient:
    """One engine of one kind. Create it and use it on one event loop.

    :param engine: ``fake``, ``torch`` or ``mlx``.
    :param idle_unload: seconds without a job after which the process is ended; ``inf`` never.
    :param stall_timeout: seconds without any sign of progress inside a job after which the engine is killed.
    :param on_log: called on the loop with the engine's log records and the lines of its stderr (level debug).
    :param readable: gives the folders of the models that an engine started now may read; the one of the job that
        it is started for comes on top. An engine that lacks a job's folder is replaced: a sandbox cannot be widened.
    :param settings: switches for the engine itself (torch's ``compile``, the fake engine's faults).
    :param transport: where engines are started; default: as child processes of this one.
    :param cancel_grace: seconds that the engine has to stop a cancelled job before it is killed; more where the job's
        blocks were seen to take long (``pauses.py``).
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
        """The engine's name as it was asked for."""
        return self._engine

    @property
    def device(self) -> str | None:
        """The device that the running engine told, or None while there is none."""
        return None if (ready := self._supervisor.ready) is None else ready.device

    @property
    def note(self) -> str | None:
        """What the running engine told of its device in words, if anything."""
        return None if (ready := self._supervisor.ready) is None else ready.note

    @property
    def sandbox(self) -> frames.SandboxReport | None:
        """What the last engine that started found about its confinement; None before the first."""
        return self._supervisor.sandbox

    def status(self) -> EngineStatus:
        """The engine's state as of now; a dead process is told at once, also before its pipe was read.

        ``last_progress_ms`` is the time since the last sign of progress, where progress is expected.
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

    async def run(self, spec: frames.JobSpec, on_event: Callable[[JobEvent], None]) -> frames.Done:
        """Run one job, starting the engine if need be; ``on_event`` is called on the loop, in order.

        If the caller's task is cancelled, the job is cancelled too. A job that finished before the
        cancel reached it returns its :class:`~locara_sidecar.ipc.frames.Done`.

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
        this returns: nothing can change what it wrote. ``on_event`` is told of loading phases only.

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
        """End the engine that was started for ``spec``, if it is still there, and return when it is gone."""
        supervisor = self._supervisor
        if (request := supervisor.request) is not None and request.spec is spec:  # given up: it is being cancelled
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
        """Stop job ``job`` if it is the one at work; anything else, or a second time: nothing happens."""
        request = self._supervisor.request
        if request is not None and request.spec.job == job:
            self._supervisor.offer(Event.CANCEL)

    async def unload(self) -> bool:
        """End an engine that has no job and give its memory back; whether there was one to end."""
        if not self._supervisor.offer(Event.UNLOAD):
            return False
        await self._supervisor.gone.wait()
        return True

    async def close(self) -> None:
        """End the engine for good; a running job gets RequestCancelled. Returns when the process is gone."""
        self._supervisor.feed(Event.CLOSE)
        await self._supervisor.gone.wait()

    def close_now(self) -> None:
        """Kill the engine without waiting for anything, for a daemon that is about to exit.

        A running job ends with RequestCancelled, if the loop ever gets to it.
        """
        self.kill()
        self._supervisor.feed(Event.ABORT)
        if (connection := self._supervisor.connection) is not None:
            connection.discard_scratch()

    def kill(self) -> None:
        """Kill the engine and do nothing else; from any thread, whatever the event loop is doing."""
        self._supervisor.kill()
