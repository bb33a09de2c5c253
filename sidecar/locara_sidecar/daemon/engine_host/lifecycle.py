"""The life of an engine as a table: what happens (events), what is to be done about it (actions). No I/O, no clock.

One engine at a time, one job at a time. :data:`TABLE` has a row for everything that may happen in a state; what has
none raises :class:`IllegalEventError`. :data:`DEADLINES` says which deadlines run in a state, and :data:`OVERDUE` what
happens when one passes; a deadline that two states share runs on from one to the other.

:class:`~locara_sidecar.daemon.engine_host.client.EngineClient` feeds the events and carries the actions out.
"""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where the engine and its job stand."""

    STOPPED = auto()
    """There is no engine and no job."""
    STARTING = auto()
    """The engine starts; the job that it was started for has been cancelled."""
    AWAITING_START = auto()
    """The engine starts; a job waits for it."""
    AWAITING_RESTART = auto()
    """As before, and the job has lost an engine already: it is not tried a third time."""
    IDLE = auto()
    """The engine is ready and has no job."""
    SENT = auto()
    """The engine has been given a job and has said nothing of it: it may have died before."""
    RUNNING = auto()
    """The engine has been given a job, and its end is the job's end."""
    CANCELLING = auto()
    """The engine has been told to stop its job."""
    ENDING = auto()
    """The engine was told to end or was killed, and may still be there; it takes no more jobs."""
    REPLACING = auto()
    """As before, and a job waits for the next engine."""
    CLOSING = auto()
    """The last engine was told to end; there will be no other."""
    ABORTED = auto()
    """The last engine was killed, and nobody waits for its end."""
    CLOSED = auto()
    """There is no engine and there will be none."""


class Event(Enum):
    """What may happen."""

    SUBMIT = auto()
    """A job comes that the engine can do, if there is one."""
    SUBMIT_ELSEWHERE = auto()
    """A job comes that needs another engine: this one may not reach its model."""
    CANCEL = auto()
    """The job is to stop."""
    UNLOAD = auto()
    """An engine without a job is to end."""
    RELEASE = auto()
    """An engine without a job is to end at once."""
    CLOSE = auto()
    """The engine is to end for good."""
    ABORT = auto()
    """The engine is to be killed, for good."""
    START_FAILED = auto()
    """No engine could be started; one that was given up meanwhile is GONE."""
    READY = auto()
    """The engine takes jobs."""
    UNAVAILABLE = auto()
    """The engine says that it cannot run here."""
    HEARD = auto()
    """The engine says something of its job."""
    OVER = auto()
    """The engine says how its job ended."""
    SPENT = auto()
    """The same, of a fault after which no further job is given to this process."""
    BROKEN = auto()
    """The engine says what no engine may say."""
    FOUND_DEAD = auto()
    """The engine has ended, which was found out by looking; GONE follows."""
    GONE = auto()
    """The engine has ended and all that it said was heard, or its end is not waited for any longer."""
    START_OVERDUE = auto()
    STALLED = auto()
    CANCEL_OVERDUE = auto()
    EXIT_OVERDUE = auto()


class Action(Enum):
    """What is to be done, in the order of the row."""

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
    """Give the job its result; it is no longer ours."""


class Deadline(Enum):
    """What is waited for only so long."""

    START = auto()
    """The engine's first answer."""
    STALL = auto()
    """Any sign of progress in a job."""
    CANCEL = auto()
    """The end of a cancelled job."""
    IDLE = auto()
    """The next job."""
    EXIT = auto()
    """The end of an engine that was told to end; then it is killed."""
    GONE = auto()
    """The end of an engine, killed or not."""


class IllegalEventError(AssertionError):
    """This cannot happen in this state; the caller is wrong."""


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
"""An engine with a job, given to it or not."""

_AWAITED: dict[Event, _Row] = {
    **_OWED,
    _E.START_FAILED: (_S.STOPPED, (_A.ANSWER,)),
    _E.UNAVAILABLE: (_S.ENDING, (_A.ANSWER, _A.EXIT)),
    _E.START_OVERDUE: (_S.ENDING, (_A.ANSWER, _A.KILL)),
    _E.CANCEL: (_S.STARTING, (_A.ANSWER,)),  # the start goes on, for the next job
}
"""An engine that starts for a job."""

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
        _E.GONE: (_S.AWAITING_RESTART, (_A.START,)),  # it died, idle for all we know, as the job was sent
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
"""The deadlines that run in a state; none in the others. ABORTED has none because no event loop may be left."""

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
"""There is an engine that nobody has told to end."""
NEVER_AGAIN = frozenset({_S.CLOSING, _S.ABORTED, _S.CLOSED})

_FAILURES = frozenset({_E.BROKEN, _E.FOUND_DEAD, _E.GONE, _E.STALLED})


class Lifecycle:
    """Where one engine stands. Its client alone feeds it."""

    def __init__(self) -> None:
        self.state = State.STOPPED
        self.lost = False
        """Whether the last engine ended, or had to be ended, without being asked to."""

    def allows(self, event: Event) -> bool:
        """Whether ``event`` may happen now."""
        return event in TABLE[self.state]

    def require(self, event: Event) -> None:
        """:raises IllegalEventError: when ``event`` may not happen now."""
        if not self.allows(event):
            raise IllegalEventError(f"{event.name} cannot happen to an engine that is {self.state.name}")

    def feed(self, event: Event) -> tuple[Action, ...]:
        """What is to be done about ``event``.

        :raises IllegalEventError: when it may not happen now; nothing has changed then.
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
        """Whether there is an engine that may be spoken to."""
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
        """Whether there will be no further engine."""
        return self.state in NEVER_AGAIN

    @property
    def deadlines(self) -> frozenset[Deadline]:
        """The deadlines that run now."""
        return DEADLINES.get(self.state, frozenset())
