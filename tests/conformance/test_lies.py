"""Deliberately broken implementations: each fails the check that is meant to find it, and no other MUST check."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from locara_conformance import runner
from locara_conformance.checks import CHECKS, chosen
from locara_conformance.outcomes import Outcome
from support import liar
from support.host import command
from support.liar import LIES
from support.liar.besides import ALSO
from support.liar.caught import CAUGHT

pytestmark = pytest.mark.timeout(300)

BYSTANDERS = ["channels.tauri-string"]
"""Checks that have nothing to do with any lie; what they send and receive is watched like everything else."""


def results_of(lie, only, timeout=3):
    return runner.run(liar.command(lie, *command("--engine", "fake")), chosen(only), timeout=timeout)


def failures(results):
    assert not [one for one in results if one.outcome is Outcome.ERROR], [(one.check.id, one.reason) for one in results]
    assert not [one for one in results if "Traceback" in one.stderr], "the liar itself failed"
    return {one.check.id: one.reason for one in results if one.outcome is Outcome.FAILURE}


def test_every_lie_is_in_the_table():
    assert sorted({*CAUGHT, "Honest"}) == sorted(LIES)
    assert {check for checks in CAUGHT.values() for check in checks} <= CHECKS.keys()
    assert ALSO.keys() <= CAUGHT.keys()
    assert {check for checks in ALSO.values() for check in checks} <= {
        id for id, one in CHECKS.items() if one.level == "MUST"
    }


def test_every_must_is_seen_to_fail():
    musts = {id for id, one in CHECKS.items() if one.level == "MUST"}
    assert musts - {check for checks in CAUGHT.values() for check in checks} == set()


@pytest.mark.slow
@pytest.mark.timeout(900)  # every check, behind a proxy: four minutes where other tests run beside it
def test_the_liar_without_a_lie_is_found_conforming():
    only = sorted({check for checks in CAUGHT.values() for check in checks})
    results = results_of("Honest", only, timeout=10)
    assert failures(results) == {}
    assert len(results) == len(only)


@pytest.fixture(scope="module")
def running(request):
    """The runs of all selected lies, three at a time, because they wait more than they compute."""
    here = [item for item in request.session.items if item.path == request.path and "lie" in _params(item)]
    chosen_lies = {item.callspec.params["lie"] for item in here}
    with ThreadPoolExecutor(3) as pool:
        yield {lie: pool.submit(results_of, lie, [*CAUGHT[lie], *BYSTANDERS]) for lie in CAUGHT if lie in chosen_lies}


def _params(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.mark.parametrize("lie", CAUGHT)
@pytest.mark.quick_cases("WritesCr", "SkipsAnIndex")
def test_a_lie_is_found_by_its_check_and_no_other(lie, running):
    found = failures(running[lie].result())
    assert sorted(found) == CAUGHT[lie], found


@pytest.mark.slow
def test_an_implementation_that_never_answers_fails_everything_soon():
    results = runner.run([sys.executable, "-c", "import sys; sys.stdin.read()"], chosen(["cancel"]), timeout=0.5)
    assert {one.outcome for one in results} == {Outcome.FAILURE}
    assert "lifecycle.initialize does not hold" in results[0].reason


@pytest.mark.slow
def test_liar_is_a_program_by_itself():
    line = b'{"jsonrpc":"2.0","id":"again","method":"ping"}\n'
    spawned = liar.command("AnswersTwice", *command("--engine", "fake"))
    done = subprocess.run(spawned, input=line, capture_output=True, timeout=60)
    assert done.stdout.count(b'"id":"again"') == 2
