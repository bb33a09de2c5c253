"""Every fixture of fixtures/jsonrpc, piped to the real daemon."""

import subprocess

import pytest

from support.host import command
from support.replay import Session, load_cases, problem

CASES = load_cases()


@pytest.mark.parametrize("initialized", [False, True], ids=["new", "initialized"])
def test_the_daemon_answers_every_fixture_as_the_contract_says(initialized):
    cases = [case for case in CASES if case.initialized is initialized]
    assert len(cases) > 10
    problems = []
    session = None
    try:
        for case in cases:
            if session is None:
                session = Session(command("--engine", "fake"), initialized=initialized, stderr=subprocess.DEVNULL)
            problems.append(problem(case, session.play(case)))
            if case.last:
                session.close()
                session = None
    finally:
        if session is not None:
            session.close()
    assert [text for text in problems if text] == []
