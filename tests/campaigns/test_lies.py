"""The campaign of the lies: which checks a lie can affect, and what is reported about it."""

import pytest

from campaigns import lies
from locara_conformance.checks import CHECKS, Result
from locara_conformance.outcomes import Outcome
from support.liar import touched

NEW = {"flags": [], "nonblocking": False, "silent": False}
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
PONG = b'{"jsonrpc":"2.0","id":1,"result":{"uptimeMs":1,"engine":{"state":"busy","model":null}}}'
ERROR = b'{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"No.","data":{"kind":"MethodNotFound"}}}'
UNKNOWN = b'{"jsonrpc":"2.0","id":2,"method":"x","params":{"loud":1}}'
DISCOVER = b'{"jsonrpc":"2.0","id":1,"method":"rpc.discover"}'
DOCUMENT = b'{"jsonrpc":"2.0","id":1,"result":{}}'
RECORDED = [
    ("one", 1, "+", NEW),
    ("one", 1, ">", PING),
    ("one", 1, "<", PONG),
    ("two", 2, ">", UNKNOWN),
    ("two", 2, "<", ERROR),
    ("three", 2, ">", PING),
    ("three", 2, "<", PONG),
    ("four", 3, ">", PING + b"\r"),
    ("four", 3, "<", PONG),
    ("five", 4, "+", NEW | {"flags": ["--log-level", "debug"]}),
    ("five", 4, "·", "end of input"),
    ("five", 4, "x", 0),
    ("six", 5, "+", NEW | {"flags": ["--catalogue", "x"]}),
    ("six", 5, "x", 1),
    ("seven", 6, "+", NEW | {"nonblocking": True, "silent": True}),
    ("seven", 6, "<", PONG),
    ("eight", 7, "·", "through"),
    ("eight", 7, "·", "unread"),
    ("nine", 8, ">", DISCOVER),
    ("nine", 8, "<", DOCUMENT),
    ("nine", 8, "·", "pieces"),
]


@pytest.mark.parametrize(
    ("lie", "checks"),
    [
        ("Honest", set()),
        ("WritesCr", {"one", "two", "three", "four", "seven", "nine"}),
        ("AlwaysIdle", {"one", "three", "four"}),
        ("KindsDoNotFitCodes", {"two"}),
        ("DropsCrlf", {"four"}),
        ("TakesUnknownMembers", {"two", "three"}),  # from then on the process got something else
        ("IgnoresSighup", {id for id in CHECKS if id.startswith("signals.")}),
        ("WrongStatus", {"six"}),
        ("CutsTheLastLine", {"five", "six"}),
        ("LogsText", {"five"}),
        ("LeavesWithoutAnswering", {"five"}),
        ("HidesBrokenEntries", {"six"}),
        ("PrintsABanner", {"seven"}),
        ("DiesWhenAPipeIsNotReady", {"seven"}),
        ("SurvivesItsHost", {"eight"}),
        ("StopsWhenNobodyReads", {"five", "eight"}),
        ("LosesAnswersWhenFull", {"nine"}),
        ("ReadsWithoutBound", {"five", "nine"}),
        ("KeepsLongLines", {"eight", "nine"}),
    ],
)
def test_a_lie_bears_on_the_checks_in_which_it_changes_something(lie, checks):
    assert touched.bears_on(lie, RECORDED) == checks


def test_of_many_long_lines_the_first_are_kept():
    long = b'{"a":"' + b"x" * 40_000 + b'"}'
    recorded = [("one", 1, "<", long)] * 10 + [("one", 1, "<", PONG)] * 10
    assert len(touched.thinned(recorded)) == 13


@pytest.mark.parametrize(
    ("runs", "missed", "besides"),
    [
        ([{"jsonrpc.not-json": "x"}], [], []),
        ([{}, {}], ["jsonrpc.not-json"], []),
        ([{}, {"jsonrpc.not-json": "late"}], [], []),
        ([{"jsonrpc.not-json": "x", "ending.eof": "slow"}, {}], [], []),
        ([{"jsonrpc.not-json": "x", "ending.eof": "no"}, {"ending.eof": "no"}], [], ["ending.eof"]),
        ([{"jsonrpc.not-json": "x", "framing.utf-8": "seen"}], [], ["framing.utf-8"]),
    ],
    ids=["its own", "missed", "missed at first", "slow machine", "another", "watched"],
)
def test_a_lie_is_caught_by_its_own_checks_and_no_other(monkeypatch, runs, missed, besides):
    left = list(runs)
    monkeypatch.setattr(lies, "broken", lambda _lie, _checks, _timeout: left.pop(0))
    found = lies.tried("ParseErrorsAreInvalidRequests", {"ending.eof"})
    assert (found["missed"], list(found["besides"]), left) == (missed, besides, [])


def test_what_a_lie_breaks_besides_stands_with_its_reason():
    assert "framing.lf-only" in lies.due("DropsCrlf")
    for reasons in lies.ALSO.values():
        assert all(reason.endswith(".") for reason in reasons.values())


def test_what_could_not_be_tried_is_not_broken(monkeypatch):
    reason = f"{lies.runner.FIRST} does not hold, which this needs: no"
    results = [
        Result(CHECKS[lies.runner.FIRST], Outcome.FAILURE, "no"),
        Result(CHECKS["ending.eof"], Outcome.FAILURE, reason),
        Result(CHECKS["ending.exit-status"], Outcome.FAILURE, "another"),
    ]
    monkeypatch.setattr(lies.runner, "run", lambda *_, **__: results)
    assert list(lies.broken("SpeaksAnotherVersion", {"ending.eof"}, 1)) == [lies.runner.FIRST, "ending.exit-status"]
