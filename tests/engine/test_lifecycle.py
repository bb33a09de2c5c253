"""The table of an engine's life cycle, state by state and event by event, without an engine."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from locara_sidecar.daemon.engine_host.supervision.lifecycle import (
    AT_WORK,
    DEADLINES,
    LIVE,
    NEVER_AGAIN,
    OVERDUE,
    STARTING,
    TABLE,
    Action,
    Deadline,
    Event,
    IllegalEventError,
    Lifecycle,
    State,
)

OWED = {State.AWAITING_START, State.AWAITING_RESTART, State.REPLACING} | AT_WORK
NO_ENGINE = {State.STOPPED, State.CLOSED}
SPEAKING = {Action.SEND, Action.SEND_CANCEL, Action.EXIT}
SUBMITS = {Event.SUBMIT, Event.SUBMIT_ELSEWHERE}

REFUSED = {
    State.STOPPED: "SUBMIT_ELSEWHERE CANCEL UNLOAD RELEASE START_FAILED READY UNAVAILABLE HEARD OVER SPENT BROKEN "
    "FOUND_DEAD GONE START_OVERDUE STALLED CANCEL_OVERDUE EXIT_OVERDUE",
    State.STARTING: "CANCEL HEARD OVER SPENT STALLED CANCEL_OVERDUE EXIT_OVERDUE",
    State.AWAITING_START: "SUBMIT SUBMIT_ELSEWHERE UNLOAD RELEASE HEARD OVER SPENT FOUND_DEAD STALLED "
    "CANCEL_OVERDUE EXIT_OVERDUE",
    State.AWAITING_RESTART: "SUBMIT SUBMIT_ELSEWHERE UNLOAD RELEASE HEARD OVER SPENT FOUND_DEAD STALLED "
    "CANCEL_OVERDUE EXIT_OVERDUE",
    State.IDLE: "CANCEL START_FAILED READY UNAVAILABLE HEARD OVER SPENT START_OVERDUE STALLED CANCEL_OVERDUE "
    "EXIT_OVERDUE",
    State.SENT: "SUBMIT SUBMIT_ELSEWHERE UNLOAD RELEASE START_FAILED READY UNAVAILABLE FOUND_DEAD START_OVERDUE "
    "CANCEL_OVERDUE EXIT_OVERDUE",
    State.RUNNING: "SUBMIT SUBMIT_ELSEWHERE UNLOAD RELEASE START_FAILED READY UNAVAILABLE FOUND_DEAD START_OVERDUE "
    "CANCEL_OVERDUE EXIT_OVERDUE",
    State.CANCELLING: "SUBMIT SUBMIT_ELSEWHERE CANCEL UNLOAD RELEASE START_FAILED READY UNAVAILABLE FOUND_DEAD "
    "START_OVERDUE EXIT_OVERDUE",
    State.ENDING: "SUBMIT_ELSEWHERE CANCEL UNLOAD RELEASE START_FAILED READY UNAVAILABLE HEARD OVER SPENT BROKEN "
    "FOUND_DEAD START_OVERDUE STALLED CANCEL_OVERDUE",
    State.REPLACING: "SUBMIT SUBMIT_ELSEWHERE UNLOAD RELEASE START_FAILED READY UNAVAILABLE HEARD OVER SPENT BROKEN "
    "FOUND_DEAD START_OVERDUE STALLED CANCEL_OVERDUE",
    State.CLOSING: "SUBMIT SUBMIT_ELSEWHERE CANCEL UNLOAD RELEASE START_FAILED READY UNAVAILABLE HEARD OVER SPENT "
    "BROKEN FOUND_DEAD START_OVERDUE STALLED CANCEL_OVERDUE",
    State.ABORTED: "SUBMIT SUBMIT_ELSEWHERE CANCEL UNLOAD RELEASE START_FAILED READY UNAVAILABLE HEARD OVER SPENT "
    "BROKEN FOUND_DEAD START_OVERDUE STALLED CANCEL_OVERDUE EXIT_OVERDUE",
    State.CLOSED: "SUBMIT SUBMIT_ELSEWHERE CANCEL UNLOAD RELEASE START_FAILED READY UNAVAILABLE HEARD OVER SPENT "
    "BROKEN FOUND_DEAD GONE START_OVERDUE STALLED CANCEL_OVERDUE EXIT_OVERDUE",
}
"""What cannot happen, written down a second time, so no row is added or removed by accident."""

ROWS = [(state, event) for state in State for event in TABLE[state]]


def at(state):
    lifecycle = Lifecycle()
    lifecycle.state = state
    return lifecycle


@pytest.mark.parametrize("state", State)
def test_every_event_has_a_row_or_is_refused(state):
    for event in Event:
        lifecycle = at(state)
        if event.name in REFUSED[state].split():
            assert not lifecycle.allows(event)
            with pytest.raises(IllegalEventError, match=f"{event.name} .* {state.name}"):
                lifecycle.feed(event)
            assert lifecycle.state is state
        else:
            assert lifecycle.allows(event)
            actions = lifecycle.feed(event)
            assert (lifecycle.state, actions) == TABLE[state][event]


def test_a_job_is_owed_an_answer_until_it_gets_one_and_gets_no_second():
    for state, event in ROWS:
        after, actions = TABLE[state][event]
        owed = (state in OWED) + (event in SUBMITS)
        assert owed <= 1
        assert actions.count(Action.ANSWER) == owed - (after in OWED)


def test_nothing_is_said_to_an_engine_that_has_ended_or_was_told_to():
    for state, event in ROWS:
        after, actions = TABLE[state][event]
        if SPEAKING & set(actions):
            assert state in LIVE
            assert event not in {Event.GONE, Event.FOUND_DEAD, Event.START_FAILED, Event.BROKEN}
        if Action.EXIT in actions or Action.KILL in actions:
            assert after not in LIVE
        if Action.SEND in actions:
            assert after in AT_WORK
        if Action.KILL in actions:
            assert event is not Event.GONE
            assert state not in NO_ENGINE


def test_an_engine_is_started_only_where_there_is_none_and_for_a_job():
    for state, event in ROWS:
        after, actions = TABLE[state][event]
        if Action.START in actions:
            assert state in NO_ENGINE or event is Event.GONE
            assert actions[-1] is Action.START  # START itself reports a failure
            assert TABLE[after][Event.START_FAILED] == (State.STOPPED, (Action.ANSWER,))
            assert Deadline.START not in DEADLINES.get(state, ())  # the deadline must start anew
        elif after in LIVE:
            assert state in LIVE


def test_what_is_given_up_leaves_no_engine_behind():
    """Every transition out of the states with a living engine ends it, or follows its end."""
    for state, event in ROWS:
        after, actions = TABLE[state][event]
        if state in LIVE and after not in LIVE:
            assert {Action.EXIT, Action.KILL} & set(actions) or event in {
                Event.GONE,
                Event.FOUND_DEAD,
                Event.START_FAILED,
            }
        if after in NO_ENGINE:
            assert state in NO_ENGINE or event in {Event.GONE, Event.START_FAILED}


@pytest.mark.parametrize(("state", "event"), [row for row in ROWS if row[0] in NEVER_AGAIN])
def test_what_was_closed_stays_closed(state, event):
    assert TABLE[state][event][0] in NEVER_AGAIN


@pytest.mark.parametrize("state", State)
def test_every_deadline_that_runs_has_a_row(state):
    for deadline in DEADLINES.get(state, ()):
        assert OVERDUE[deadline] in TABLE[state]


@pytest.mark.parametrize("state", State)
def test_every_state_with_an_engine_ends_by_deadlines_alone(state):
    """With an engine that stays silent and cannot even be killed, no job waits forever, and neither does a stop."""

    def follow(path, owed):
        state = path[-1]
        assert len(path) == len(set(path)), "round and round"
        waits = DEADLINES.get(state, frozenset())
        if not waits:
            assert not owed
            assert state in NO_ENGINE | {State.ABORTED}
        for deadline in waits - {Deadline.EXIT}:  # that one leads nowhere else: see the next test
            after, actions = TABLE[state][OVERDUE[deadline]]
            follow((*path, after), owed and Action.ANSWER not in actions)

    follow((state,), state in OWED)


@pytest.mark.parametrize("state", [state for state in State if Deadline.EXIT in DEADLINES.get(state, ())])
def test_an_engine_that_does_not_end_when_told_is_killed_and_waited_for(state):
    assert TABLE[state][Event.EXIT_OVERDUE] == (state, (Action.KILL,))
    assert Deadline.GONE in DEADLINES[state]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("stop", [Event.CLOSE, Event.ABORT])
def test_a_stop_is_possible_at_any_time_answers_the_job_and_needs_only_the_engine_s_end(state, stop):
    lifecycle = at(state)
    actions = lifecycle.feed(stop)
    assert (Action.ANSWER in actions) == (state in OWED)
    assert lifecycle.closed
    if lifecycle.state is not State.CLOSED:
        lifecycle.feed(Event.GONE)
    assert lifecycle.state is State.CLOSED


@pytest.mark.parametrize("state", State)
def test_an_abort_waits_for_nothing_and_sets_no_deadline(state):
    """There may be no event loop left to run one."""
    after, actions = TABLE[state][Event.ABORT]
    assert after not in DEADLINES
    assert Action.EXIT not in actions
    assert (Action.KILL in actions) == (state not in NO_ENGINE)


def test_a_job_that_was_sent_to_a_dying_engine_is_tried_twice_and_no_more():
    lifecycle = Lifecycle()
    events = [Event.SUBMIT, Event.READY, Event.GONE, Event.READY, Event.GONE]
    assert [lifecycle.feed(event) for event in events] == [
        (Action.START,), (Action.SEND,), (Action.START,), (Action.SEND,), (Action.ANSWER,)
    ]  # fmt: skip
    assert lifecycle.state is State.STOPPED


@pytest.mark.parametrize("event", [Event.GONE, Event.BROKEN, Event.STALLED])
def test_an_engine_that_had_to_go_is_lost_until_the_next_one_starts(event):
    lifecycle = at(State.RUNNING)
    lifecycle.feed(event)
    assert lifecycle.lost
    if event is not Event.GONE:
        lifecycle.feed(Event.GONE)
    assert lifecycle.lost
    lifecycle.feed(Event.SUBMIT)
    assert not lifecycle.lost


@pytest.mark.parametrize("event", [Event.UNLOAD, Event.RELEASE, Event.CLOSE, Event.ABORT, Event.SUBMIT_ELSEWHERE])
def test_an_engine_that_was_asked_to_end_is_not_lost(event):
    lifecycle = at(State.IDLE)
    lifecycle.feed(event)
    lifecycle.feed(Event.GONE)
    assert not lifecycle.lost


class Life(RuleBasedStateMachine):
    """Any events in any order; their effects on jobs and engines are counted independently of the table."""

    def __init__(self):
        super().__init__()
        self.lifecycle = Lifecycle()
        self.asked = self.answered = 0
        self.engine = None  # "live", "told" (to end) or None (gone)
        self.has_job = False

    def happen(self, event):
        if event in SUBMITS:
            self.asked += 1
        if event in {Event.GONE, Event.START_FAILED}:
            self.engine = None
        elif event is Event.FOUND_DEAD:
            self.engine = "told"
        elif event in {Event.OVER, Event.SPENT}:
            self.has_job = False
        for action in self.lifecycle.feed(event):
            match action:
                case Action.START:
                    assert self.engine is None
                    self.engine, self.has_job = "live", False
                case Action.SEND:
                    assert (self.engine, self.has_job) == ("live", False)
                    self.has_job = True
                case Action.SEND_CANCEL:
                    assert (self.engine, self.has_job) == ("live", True)
                case Action.EXIT:
                    assert (self.engine, self.has_job) == ("live", False)
                    self.engine = "told"
                case Action.KILL:
                    assert self.engine is not None
                    self.engine = "told"
                case Action.ANSWER:
                    self.answered += 1

    @rule(event=st.sampled_from(Event))
    def anything(self, event):
        if self.lifecycle.allows(event):
            self.happen(event)
        else:
            before = self.lifecycle.state
            with pytest.raises(IllegalEventError):
                self.lifecycle.feed(event)
            assert self.lifecycle.state is before

    @precondition(lambda self: not self.lifecycle.closed)
    @rule(data=st.data())
    def something_possible(self, data):
        rare = {Event.CLOSE, Event.ABORT}  # these end everything
        self.happen(data.draw(st.sampled_from([event for event in TABLE[self.lifecycle.state] if event not in rare])))

    @invariant()
    def a_job_is_owed_an_answer_or_has_it(self):
        assert self.asked - self.answered == (self.lifecycle.state in OWED)

    @invariant()
    def the_engine_is_where_the_state_says(self):
        assert (self.engine == "live") == self.lifecycle.live
        assert (self.engine is None) == (self.lifecycle.state in NO_ENGINE)
        assert self.has_job >= self.lifecycle.at_work

    def teardown(self):
        """Whatever came before, a stop ends everything, and deadlines alone suffice for that."""
        self.happen(Event.CLOSE)
        for _ in range(3):
            if deadlines := self.lifecycle.deadlines:
                self.happen(OVERDUE[sorted(deadlines, key=lambda one: one.value)[0]])
                if Deadline.GONE in self.lifecycle.deadlines:
                    self.happen(Event.GONE)
        assert self.lifecycle.state is State.CLOSED
        assert self.engine is None
        assert self.asked == self.answered


@pytest.mark.timeout(300)
def test_no_order_of_events_leaves_a_job_unanswered_or_speaks_to_an_engine_that_has_ended():
    run_state_machine_as_test(Life)


def test_every_state_is_reached_and_the_sets_of_states_are_what_they_say():
    reached, left = {State.STOPPED}, [State.STOPPED]
    while left:
        for after, _ in TABLE[left.pop()].values():
            if after not in reached:
                reached.add(after)
                left.append(after)
    assert reached == set(State)
    assert STARTING | AT_WORK | {State.IDLE} == LIVE
    assert not LIVE & NEVER_AGAIN
