"""The engine's life cycle as a state table: events in, actions out. No I/O, no clock.

One engine at a time, one job at a time. :data:`TABLE` has a row for each event that may happen in a state; any other
raises :class:`IllegalEventError`. :data:`DEADLINES` says which deadlines run in a state, and :data:`OVERDUE` what
happens when one passes; a deadline that two states share keeps running from one to the other.

:class:`~locara_sidecar.daemon.engine_host.client.EngineClient` feeds in the events and carries out the actions.
"""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """The state of the engine and its job."""

    STOPPED = auto()
    """There is no engine and no job."""
    STARTING = auto()
    """The engine is starting; the job that it was started for has been cancelled."""
    AWAITING_START = auto()
    """The engine is starting; a job waits for it."""
    AWAITING_RESTART = auto()
    """As before, but the job has lost one engine already: it is not tried a third time."""
    IDLE = auto()
    """The engine is ready and has no job."""
    SENT = auto()
    """The engine has been given a job but has not reported on it: it may have died before."""
    RUNNING = auto()
    """The engine is working on a job; if it ends, so does the job."""
    CANCELLING = auto()
    """The engine has been told to stop its job."""
    ENDING = auto()
    """The engine was told to end or was killed, and may still exist; it takes no more jobs."""
    REPLACING = auto()
    """As before, and a job waits for the next engine."""
    CLOSING = auto()
    """The last engine was told to end; there will be no other."""
    ABORTED = auto()
    """The last engine was killed, and nobody waits for its end."""
    CLOSED = auto()
    """There is no engine and there will be none."""


class Event(Enum):
    """What can happen."""

    SUBMIT = auto()
    """A job arrives that the engine, if there is one, can do."""
    SUBMIT_ELSEWHERE = auto()
    """A job arrives that needs another engine: this one may not read its model, or its own folder was replaced."""
    CANCEL = auto()
    """The job has to stop."""
    UNLOAD = auto()
    """An engine without a job has to end."""
    RELEASE = auto()
    """An engine without a job has to end at once."""
    CLOSE = auto()
    """The engine has to end for good."""
    ABORT = auto()
    """The engine has to be killed, for good."""
    START_FAILED = auto()
    """No engine could be started; if the start was given up meanwhile, the event is GONE."""
    READY = auto()
    """The engine accepts jobs."""
    UNAVAILABLE = auto()
    """The engine reports that it cannot run here."""
    HEARD = auto()
    """The engine reports on its job."""
    OVER = auto()
    """The engine reports how its job ended."""
    SPENT = auto()
    """As before, with a fault after which this process gets no further job."""
    BROKEN = auto()
    """The engine violated its protocol."""
    FOUND_DEAD = auto()
    """The engine was found to have ended; GONE follows."""
    GONE = auto()
    """The engine has ended and all its output was processed, or its end is no longer waited for."""
    START_OVERDUE = auto()
    STALLED = auto()
    CANCEL_OVERDUE = auto()
    EXIT_OVERDUE = auto()


class Action(Enum):
    """What has to be done, in the row's order."""

    START = auto()
    """Start an engine; START_FAILED or GONE follows if that fails."""
    SEND = auto()
    """Give the job to the engine."""
    SEND_CANCEL = auto()
    """Tell the engine to stop its job."""
    EXIT = auto()
    """Tell the engine to end."""
    KILL = auto()
    """End the engine by force."""
    ANSWER = auto()
    """Give the job its result; the job is then no longer ours."""


class Deadline(Enum):
    """Waits that are limited in time."""

    START = auto()
    """The engine's first answer."""
    STALL = auto()
    """Any sign of progress in a job."""
    CANCEL = auto()
    """The end of a cancelled job."""
    IDLE = auto()
    """The next job."""
    EXIT = auto()
    """The end of an engine that was told to end; after that it is killed."""
    GONE = auto()
    """The end of an engine, killed or not."""


class IllegalEventError(AssertionError):
    """The event cannot happen in this state; the caller is at fault."""


_S, _E, _A = State, Event, Action
_Row = tuple[State, tuple[Action, ...]]

_KEPT: dict[Event, _Row] = {
    _E.UNLOAD: (_S.ENDING, (_A.EXIT,)),
    _E.RELEASE: (_S.ENDING, (_A.KILL,)),
    _E.CLOSE: (_S.CLOSING, (_A.EXIT,)),
    _E.ABORT: (_S.ABORTED, (_A.KILL,)),
    _E.SUBMIT_ELSEWHERE: (_S.REPLACING, (_A.EXIT,)),
    _E.FOUND_DEAD: (_S.ENDING, ()),
    _E.BROKEN: (_S.ENDING, (_A.KILL,)),
    _E.GONE: (_S.STOPPED, ()),
}
"""An engine without a job."""

_OWED: dict[Event, _Row] = {
    _E.CLOSE: (_S.CLOSING, (_A.ANSWER, _A.KILL)),
    _E.ABORT: (_S.ABORTED, (_A.KILL, _A.ANSWER)),
    _E.BROKEN: (_S.ENDING, (_A.ANSWER, _A.KILL)),
    _E.GONE: (_S.STOPPED, (_A.ANSWER,)),
}
"""An engine with a job, sent or not."""

_AWAITED: dict[Event, _Row] = {
    **_OWED,
    _E.START_FAILED: (_S.STOPPED, (_A.ANSWER,)),
    _E.UNAVAILABLE: (_S.ENDING, (_A.ANSWER, _A.EXIT)),
    _E.START_OVERDUE: (_S.ENDING, (_A.ANSWER, _A.KILL)),
    _E.CANCEL: (_S.STARTING, (_A.ANSWER,)),  # the start continues, for the next job
}
"""An engine that is starting for a job."""

_AT_WORK: dict[Event, _Row] = {
    **_OWED,
    _E.HEARD: (_S.RUNNING, ()),
    _E.OVER: (_S.IDLE, (_A.ANSWER,)),
    _E.SPENT: (_S.ENDING, (_A.ANSWER, _A.EXIT)),
    _E.CANCEL: (_S.CANCELLING, (_A.SEND_CANCEL,)),
    _E.STALLED: (_S.ENDING, (_A.ANSWER, _A.KILL)),
}
"""An engine that was given a job."""

TABLE: dict[State, dict[Event, _Row]] = {
    _S.STOPPED: {
        _E.SUBMIT: (_S.AWAITING_START, (_A.START,)),
        _E.CLOSE: (_S.CLOSED, ()),
        _E.ABORT: (_S.CLOSED, ()),
    },
    _S.STARTING: {
        **_KEPT,
        _E.SUBMIT: (_S.AWAITING_START, ()),
        _E.START_FAILED: (_S.STOPPED, ()),
        _E.READY: (_S.IDLE, ()),
        _E.UNAVAILABLE: (_S.ENDING, (_A.EXIT,)),
        _E.START_OVERDUE: (_S.ENDING, (_A.KILL,)),
    },
    _S.AWAITING_START: {**_AWAITED, _E.READY: (_S.SENT, (_A.SEND,))},
    _S.AWAITING_RESTART: {**_AWAITED, _E.READY: (_S.RUNNING, (_A.SEND,))},
    _S.IDLE: {**_KEPT, _E.SUBMIT: (_S.SENT, (_A.SEND,))},
    _S.SENT: {
        **_AT_WORK,
        _E.GONE: (_S.AWAITING_RESTART, (_A.START,)),  # it died as the job was sent, as far as we know while idle
    },
    _S.RUNNING: _AT_WORK,
    _S.CANCELLING: {
        **{event: row for event, row in _AT_WORK.items() if event is not _E.CANCEL},
        _E.HEARD: (_S.CANCELLING, ()),
        _E.CANCEL_OVERDUE: (_S.ENDING, (_A.ANSWER, _A.KILL)),
    },
    _S.ENDING: {
        _E.SUBMIT: (_S.REPLACING, ()),  # two engines at once could need twice the memory
        _E.CLOSE: (_S.CLOSING, ()),
        _E.ABORT: (_S.ABORTED, (_A.KILL,)),
        _E.EXIT_OVERDUE: (_S.ENDING, (_A.KILL,)),
        _E.GONE: (_S.STOPPED, ()),
    },
    _S.REPLACING: {
        _E.CANCEL: (_S.ENDING, (_A.ANSWER,)),
        _E.CLOSE: (_S.CLOSING, (_A.ANSWER,)),
        _E.ABORT: (_S.ABORTED, (_A.KILL, _A.ANSWER)),
        _E.EXIT_OVERDUE: (_S.REPLACING, (_A.KILL,)),
        _E.GONE: (_S.AWAITING_START, (_A.START,)),
    },
    _S.CLOSING: {
        _E.CLOSE: (_S.CLOSING, ()),
        _E.ABORT: (_S.ABORTED, (_A.KILL,)),
        _E.EXIT_OVERDUE: (_S.CLOSING, (_A.KILL,)),
        _E.GONE: (_S.CLOSED, ()),
    },
    _S.ABORTED: {
        _E.CLOSE: (_S.CLOSING, (_A.KILL,)),
        _E.ABORT: (_S.ABORTED, (_A.KILL,)),
        _E.GONE: (_S.CLOSED, ()),
    },
    _S.CLOSED: {
        _E.CLOSE: (_S.CLOSED, ()),
        _E.ABORT: (_S.CLOSED, ()),
    },
}
"""State and event to the next state and the actions."""

_START = frozenset({Deadline.START})
_STALL = frozenset({Deadline.STALL})
_END = frozenset({Deadline.EXIT, Deadline.GONE})

DEADLINES: dict[State, frozenset[Deadline]] = {
    _S.STARTING: _START,
    _S.AWAITING_START: _START,
    _S.AWAITING_RESTART: _START,
    _S.IDLE: frozenset({Deadline.IDLE}),
    _S.SENT: _STALL,
    _S.RUNNING: _STALL,
    _S.CANCELLING: _STALL | {Deadline.CANCEL},
    _S.ENDING: _END,
    _S.REPLACING: _END,
    _S.CLOSING: _END,
}
"""The deadlines that run in a state; none in the others. ABORTED has none because the event loop may be gone."""

OVERDUE: dict[Deadline, Event] = {
    Deadline.START: _E.START_OVERDUE,
    Deadline.STALL: _E.STALLED,
    Deadline.CANCEL: _E.CANCEL_OVERDUE,
    Deadline.IDLE: _E.UNLOAD,
    Deadline.EXIT: _E.EXIT_OVERDUE,
    Deadline.GONE: _E.GONE,
}
"""What happens when a deadline passes."""

STARTING = frozenset({_S.STARTING, _S.AWAITING_START, _S.AWAITING_RESTART})
AT_WORK = frozenset({_S.SENT, _S.RUNNING, _S.CANCELLING})
LIVE = STARTING | AT_WORK | {_S.IDLE}
"""There is an engine that has not been told to end."""
NEVER_AGAIN = frozenset({_S.CLOSING, _S.ABORTED, _S.CLOSED})

_FAILURES = frozenset({_E.BROKEN, _E.FOUND_DEAD, _E.GONE, _E.STALLED})


class Lifecycle:
    """The state of one engine. Only its client feeds it."""

    def __init__(self) -> None:
        self.state = State.STOPPED
        self.lost = False
        """Whether the last engine ended, or had to be killed, without having been asked to end."""

    def allows(self, event: Event) -> bool:
        """Whether ``event`` may happen now."""
        return event in TABLE[self.state]

    def require(self, event: Event) -> None:
        """Raise if ``event`` may not happen now.

        :raises IllegalEventError: if it may not.
        """
        if not self.allows(event):
            raise IllegalEventError(f"{event.name} cannot happen to an engine that is {self.state.name}")

    def feed(self, event: Event) -> tuple[Action, ...]:
        """Return the actions for ``event``.

        :raises IllegalEventError: if it may not happen now; nothing has changed then.
        """
        self.require(event)
        before = self.state
        self.state, actions = TABLE[before][event]
        if before in LIVE:
            self.lost = self.state not in LIVE and event in _FAILURES
        elif self.state in LIVE:
            self.lost = False
        return actions

    @property
    def live(self) -> bool:
        """Whether there is an engine that can be talked to."""
        return self.state in LIVE

    @property
    def starting(self) -> bool:
        """Whether the engine has not answered yet."""
        return self.state in STARTING

    @property
    def at_work(self) -> bool:
        """Whether the engine has a job."""
        return self.state in AT_WORK

    @property
    def closed(self) -> bool:
        """Whether there will be no more engines."""
        return self.state in NEVER_AGAIN

    @property
    def deadlines(self) -> frozenset[Deadline]:
        """The deadlines that run now."""
        return DEADLINES.get(self.state, frozenset())
