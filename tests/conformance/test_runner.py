"""Groups of checks run concurrently and independently, and their results are reported in order."""

import threading
from dataclasses import replace

import pytest

from locara_conformance import runner
from locara_conformance.checks import CHECKS, Check
from locara_conformance.outcomes import Failed, Outcome
from support import liar
from support.host import command

HONEST = command("--engine", "fake")
PATIENCE = 60


@pytest.fixture
def made(monkeypatch):
    """Make checks by id; they stay in the list while the test runs."""

    def make(**runs):
        checks = [Check(id.replace("_", "."), ("WIRE-1",), "MUST", run, False) for id, run in runs.items()]
        for check in checks:
            monkeypatch.setitem(CHECKS, check.id, check)
        return checks

    return make


def test_two_groups_run_at_the_same_time(made):
    both = threading.Barrier(2)
    checks = made(
        early_one=lambda _lab: both.wait(PATIENCE) and None, late_one=lambda _lab: both.wait(PATIENCE) and None
    )
    results = runner.run(HONEST, checks, at_once=2)
    assert [(one.check.id, one.outcome) for one in results] == [
        ("early.one", Outcome.SUCCESS),
        ("late.one", Outcome.SUCCESS),
    ]


def test_results_come_in_the_order_of_the_list_whatever_is_done_first(made):
    told, done = [], threading.Event()

    def last(_lab):
        done.set()

    checks = made(early_one=lambda _lab: done.wait(PATIENCE) and None, early_two=lambda _lab: None, late_one=last)
    results = runner.run(HONEST, checks, at_once=2, progress=lambda one: told.append(one.check.id))
    assert [one.check.id for one in results] == ["early.one", "early.two", "late.one"]
    assert sorted(told) == ["early.one", "early.two", "late.one"]


@pytest.mark.slow
def test_groups_share_neither_processes_nor_folders(made):
    seen = []

    def look(lab):
        seen.append((lab.shared().process.pid, lab.root, lab.folder()))

    results = runner.run(HONEST, made(early_one=look, early_two=look, late_one=look), at_once=2)
    assert {one.outcome for one in results} == {Outcome.SUCCESS}
    assert [len({one[at] for one in seen}) for at in range(3)] == [2, 2, 2]


@pytest.mark.slow
def test_nothing_runs_beside_a_group_that_reports_times(made, monkeypatch):
    monkeypatch.setattr(runner, "ALONE", ("timed",))
    running, beside = set(), []

    def other(name):
        def run(_lab):
            running.add(name)
            threading.Event().wait(0.3)
            running.discard(name)

        return run

    checks = made(timed_one=lambda _lab: beside.append(set(running)), early_one=other("a"), late_one=other("b"))
    runner.run(HONEST, checks, at_once=3)
    assert beside == [set()]


@pytest.mark.slow
def test_what_the_watch_finds_in_any_group_fails_its_check(made):
    def draw(lab):
        lab.shared().call("ping")

    checks = made(early_one=draw, late_one=draw)
    results = runner.run(liar.command("WritesCr", *HONEST), checks, at_once=2)
    assert {one.check.id: one.outcome for one in results} == {
        "framing.lf-only": Outcome.FAILURE,
        "early.one": Outcome.SUCCESS,
        "late.one": Outcome.SUCCESS,
    }
    (found,) = [one for one in results if one.check.id == "framing.lf-only"]
    assert "times)" in found.reason


def test_a_check_that_is_asked_for_by_itself_runs_after_a_first_one_that_is_not_told(made):
    def fail(_lab):
        raise Failed("no")

    told = []
    results = runner.run(HONEST, made(early_one=fail), progress=lambda one: told.append(one.check.id))
    assert [(one.check.id, one.outcome) for one in results] == [("early.one", Outcome.FAILURE)]
    assert told == ["early.one"]


def test_after_an_interrupt_no_further_check_begins(made):
    begun = []

    def interrupted(_lab):
        begun.append("one")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(HONEST, [*made(early_one=interrupted), *_many(made, begun)], at_once=1)
    assert begun == ["one"]


def _many(made, begun):
    (check,) = made(late_one=lambda _lab: begun.append("two"))
    return [check, replace(check, id="late.two")]
