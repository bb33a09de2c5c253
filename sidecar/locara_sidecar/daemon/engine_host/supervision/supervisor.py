"""Runs one engine at a time: feeds events to the state table, and carries out the actions that it returns.

What may happen and what is then done is in :mod:`~locara_sidecar.daemon.engine_host.supervision.lifecycle`. How to
reach an engine is up to a transport (:mod:`~locara_sidecar.daemon.engine_host.transport`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from locara_protocol.errors import RpcError
from locara_sidecar.daemon.engine_host import failures
from locara_sidecar.daemon.engine_host.output.screen import LogScreen, Screen, check_ready
from locara_sidecar.daemon.engine_host.output.stderr import PromptFilter
from locara_sidecar.daemon.engine_host.request import model_files, writes_to
from locara_sidecar.daemon.engine_host.supervision.lifecycle import OVERDUE, Action, Deadline, Event, Lifecycle, State
from locara_sidecar.daemon.engine_host.supervision.pauses import Pauses
from locara_sidecar.daemon.engine_host.supervision.timers import Timers
from locara_sidecar.ipc import frames, framing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locara_sidecar.daemon.engine_host.program import Program
    from locara_sidecar.daemon.engine_host.request import JobEvent, Request, Result
    from locara_sidecar.daemon.engine_host.transport.interface import Connection, Transport

_REASON = 500  # characters


class Supervisor:
    """One engine of one kind, on one event loop, which it never blocks.

    The parameters are those of :class:`~locara_sidecar.daemon.engine_host.client.EngineClient`.

    :param seconds: the length of each deadline; ``inf``: it never passes.
    """

    def __init__(
        self,
        engine: str,
        transport: Transport,
        seconds: dict[Deadline, float],
        *,
        on_log: Callable[[frames.Log], None],
        readable: Callable[[], Iterable[str]],
        settings: dict[str, str],
    ) -> None:
        self._engine = engine
        self._transport = transport
        self._seconds = seconds
        self._on_log = on_log
        self._readable = readable
        self._settings = settings
        self._timers = Timers()
        self._pauses = Pauses()
        self._prompts = PromptFilter()
        self._log_screen = LogScreen()
        self._screen: Screen | None = None  # for the job that was sent last
        self._given: frozenset[str] = frozenset()  # the model folders that the engine may read
        self.program: Program | None = None
        """What an engine would now be started from; None if it does not exist or is not known."""
        self.started_from: Program | None = None
        """What the last engine was started from."""
        self._retired = False  # the running engine gets no further job

        self.lifecycle = Lifecycle()
        self.connection: Connection | None = None
        """The engine, until it is gone."""
        self.gone = asyncio.Event()
        """Set while there is no engine."""
        self.gone.set()
        self.request: Request | None = None
        """The job that still needs an answer."""
        self.ready: frames.Ready | None = None
        """What the running engine reported about itself."""
        self.sandbox: frames.SandboxReport | None = None
        """What the most recently started engine found out about its confinement."""
        self.into: str | None = None
        """The folder that the engine may write to besides its scratch folder."""
        self.model: str | None = None
        """The model that the engine has loaded."""
        self.progress = 0.0
        """The loop's time of the last sign of life."""

    def submit(self, request: Request) -> None:
        """Submit a job; the one before must have been answered."""
        if self.lifecycle.live and self.connection is not None and not self.connection.alive:
            self.feed(Event.FOUND_DEAD)
        suits = self._given.issuperset(request.spec.model.folders()) and writes_to(request.spec) == self.into
        suits = suits and not self._retired and not self._moved()
        event = Event.SUBMIT if suits or not self.lifecycle.live else Event.SUBMIT_ELSEWHERE
        self.lifecycle.require(event)
        self.request = request
        self.feed(event)

    def _moved(self) -> bool:
        """Whether the folder of the running engine was replaced. Files replaced inside it do not matter to an engine
        that has imported what it needs.
        """
        now, then = self.program, self.started_from
        return now is not None and (then is None or now.folder != then.folder)

    def retire(self, why: str) -> None:
        """Give no further job to the running engine, if there is one."""
        self._retired = True
        self._on_log(frames.Log(level="warning", logger="engine", msg=why))

    def offer(self, event: Event) -> bool:
        """Feed in ``event`` if it may happen now; return whether it did."""
        allowed = self.lifecycle.allows(event)
        if allowed:
            self.feed(event)
        return allowed

    def kill(self) -> None:
        """Only kill the engine; from any thread, whatever the event loop is doing."""
        if (connection := self.connection) is not None:
            connection.kill()

    def feed(self, event: Event, result: Result | Exception | None = None) -> None:
        """Feed in ``event``.

        :param result: the job's answer if ``event`` ends it; None if it was cancelled.
        :raises IllegalEventError: if it may not happen now.
        """
        actions = self.lifecycle.feed(event)
        if not self.lifecycle.live:
            self.ready = self.model = None
        self._timers.keep(self.lifecycle.deadlines, self._start_timer)
        for action in actions:
            self._do(action, result)

    def _do(self, action: Action, result: Result | Exception | None) -> None:
        match action:
            case Action.START:
                self._start()
            case Action.SEND:
                self._send()
            case Action.SEND_CANCEL:
                request, connection = self._current()
                connection.send(frames.Cancel(job=request.spec.job))
            case Action.EXIT:
                assert self.connection is not None
                self.connection.send(frames.Exit())
                self.connection.close_input()
            case Action.KILL:
                self.kill()
            case Action.ANSWER:
                request, self.request = self.request, None
                assert request is not None
                request.answer(failures.cancelled() if result is None else result)
            case _:
                assert_never(action)

    def _current(self) -> tuple[Request, Connection]:
        assert self.request is not None
        assert self.connection is not None
        return self.request, self.connection

    def _start(self) -> None:
        assert self.request is not None
        spec = self.request.spec
        self.ready = self.model = None
        self.progress = asyncio.get_running_loop().time()
        self.started_from, self._retired = self.program, False
        try:
            self._given = frozenset((*self._readable(), *spec.model.folders()))
            self.into = writes_to(spec)
            self.connection = self._transport.start(
                partial(_opening, self._engine, self._settings, self._given, self.into),
                on_events=self._received,
                on_gone=self._died,
                on_failed=self._not_started,
                on_lines=self._stderr_lines,
            )
        except Exception as error:  # noqa: BLE001 -- whatever it is, the job is answered
            self.feed(Event.START_FAILED, failures.not_started(self._engine, error))
        else:
            self.gone.clear()

    def _not_started(self, connection: Connection, error: Exception) -> None:
        """Handle a connection for which no engine could be started."""
        if connection is not self.connection:
            return
        self.connection = None
        self.gone.set()
        failed = self.lifecycle.allows(Event.START_FAILED)  # otherwise it was given up before, and is gone
        self.feed(Event.START_FAILED if failed else Event.GONE, failures.not_started(self._engine, error))

    def _send(self) -> None:
        request, connection = self._current()
        self.progress = asyncio.get_running_loop().time()
        self._pauses.begin(self.progress)
        if isinstance(request.spec, frames.JobSpec):
            self._prompts.watch(request.spec.prompt, request.spec.negative_prompt)
        if request.spec.model.id != self.model:
            self.model = None
        self._screen = Screen(request.spec, self._engine)
        connection.send(request.command)

    # --- deadlines --------------------------------------------------------------------------

    def _start_timer(self, deadline: Deadline) -> None:
        seconds = self._seconds[deadline]
        if deadline is Deadline.CANCEL:
            seconds = self._pauses.grace(seconds)
        self._timers.start(deadline, seconds, self._overdue, deadline)

    def _overdue(self, deadline: Deadline) -> None:
        match deadline:
            case Deadline.STALL:
                self._stalled()
            case Deadline.GONE:
                assert self.connection is not None
                self._died(self.connection)
            case Deadline.START:
                within = f"it did not start within {self._seconds[deadline]:g} s"
                self.feed(OVERDUE[deadline], failures.unavailable(self._engine, within))
            case _:
                self.feed(OVERDUE[deadline])

    def _stalled(self, *, sure: bool = False) -> None:
        """Handle the stall timer: if there was progress since it was set, run it again for the rest of the time.

        A machine that was suspended (or a stopped process group) resumes with the timer overdue and the engine's signs
        of life unread, so the first alarm only sets a second, short one.
        """
        assert self.request is not None
        allowed = self._seconds[Deadline.STALL]
        left = self.progress + allowed - asyncio.get_running_loop().time()
        if left > 0:
            self._timers.start(Deadline.STALL, left, self._stalled)
        elif not sure:
            self._timers.start(Deadline.STALL, min(0.5, allowed / 4), lambda: self._stalled(sure=True))
        else:
            self.feed(Event.STALLED, failures.stalled(allowed, self.request.phase))

    # --- what the engine reports ---------------------------------------------------------------

    def _died(self, connection: Connection) -> None:
        """Handle an engine that is gone, with all its output processed (or a killed one that takes too long to go)."""
        if connection is not self.connection:
            return
        self.connection = None
        self.gone.set()
        self.feed(Event.GONE, failures.ended(connection.exit_data(), self._phase()))

    def _phase(self) -> str | None:
        """Return the phase of the running job; None while the engine is still starting."""
        return None if self.request is None or self.ready is None else self.request.phase

    def _received(self, connection: Connection, events: list[frames.Event | framing.FrameError]) -> None:
        for event in events:
            if connection is not self.connection or not self.lifecycle.live:
                return  # what an engine sends after it was given up does not matter
            try:
                self._handle(event)
            except framing.FrameError as error:
                self._broken(error)

    def _handle(self, event: frames.Event | framing.FrameError) -> None:
        match event:
            case framing.FrameError():
                raise event
            case frames.Log():
                for record in self._log_screen.clean(event, self._prompts.clean):
                    self._on_log(record)
            case frames.Ready() | frames.Unavailable() if not self.lifecycle.starting:
                raise framing.FrameError("it answered its start twice")
            case frames.Ready():
                self._started(event)
            case frames.Unavailable():
                self._unavailable(event.reason)
            case _:
                request = self.request
                if request is not None and self.lifecycle.at_work and event.job == request.spec.job:
                    assert self._screen is not None
                    self._screen.check(event)
                    self.feed(Event.HEARD)
                    self.progress = asyncio.get_running_loop().time()
                    self._pauses.heard(self.progress, request.phase)
                    self._job_event(request, event)

    def _started(self, event: frames.Ready) -> None:
        if event.version != frames.VERSION:
            self._unavailable(frames.OTHER_VERSION)
            return
        check_ready(event, self._engine)
        self.ready = event
        self.sandbox = event.sandbox
        if (found := event.sandbox) is not None:
            level, fields = "info" if found.enforced else "warning", {"kind": found.kind, **found.details}
            self._on_log(frames.Log(level=level, logger="engine.sandbox", msg=found.reason, fields=fields))
        self.feed(Event.READY)

    def _unavailable(self, reason: str) -> None:
        error = failures.unavailable(self._engine, reason[:_REASON])
        if reason == frames.OTHER_VERSION:  # nothing but an update brings two versions together
            error = failures.after_update(error)
        self.feed(Event.UNAVAILABLE, error)

    def _broken(self, error: framing.FrameError) -> None:
        """Give up the connection, and with it the engine."""
        why = self._prompts.clean(str(error)[:_REASON])
        self._on_log(frames.Log(level="error", logger="engine", msg=f"the engine broke its protocol: {why}"))
        self.feed(Event.BROKEN, failures.garbled(self._phase()))

    def _job_event(
        self,
        request: Request,
        event: JobEvent | frames.Heartbeat | Result | frames.Failed | frames.Cancelled,
    ) -> None:
        match event:
            case frames.Heartbeat():
                pass
            case frames.PhaseStarted() | frames.Step() | frames.Image():
                if isinstance(event, frames.PhaseStarted):
                    request.phase = event.phase
                    self.model = None if event.phase == "loading" else request.spec.model.id
                if not request.report(event):
                    self.offer(Event.CANCEL)
            case frames.Done() | frames.Loaded() | frames.Prepared():
                self.model = None if isinstance(event, frames.Prepared) else request.spec.model.id
                self.feed(Event.OVER, event)
            case frames.Failed():
                cancelled = self.lifecycle.state is State.CANCELLING
                over = Event.SPENT if failures.is_lasting(event) else Event.OVER
                self.feed(over, None if cancelled else RpcError(event.kind, event.message, **event.data))
            case frames.Cancelled():
                self.feed(Event.OVER)
            case _:
                assert_never(event)

    def _stderr_lines(self, lines: list[str]) -> None:
        for line in lines:
            self._on_log(frames.Log(level="debug", logger="engine.stderr", msg=self._prompts.clean(line)))


def _opening(
    engine: str, settings: dict[str, str], folders: frozenset[str], into: str | None, scratch: str
) -> frames.Start:
    """Build the first command for an engine. Walks the folders, so keep it off the event loop.

    :param folders: of the models that the engine may read.
    :param into: the folder that it may write to besides its scratch folder.
    """
    return frames.Start(
        version=frames.VERSION,
        engine=engine,
        scratch=scratch,
        settings=settings,
        readable=[path for folder in sorted(folders) for path in model_files(Path(folder))],
        writable=[] if into is None else [into],
    )
