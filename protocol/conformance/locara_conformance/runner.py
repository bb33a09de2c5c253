"""Runs checks one after the other and gives each its result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from locara_conformance import groups as _groups  # fills the list of checks
from locara_conformance.checks import CHECKS, Result
from locara_conformance.lab import Lab
from locara_conformance.outcomes import Failed, HarnessFault, Late, Outcome, Skip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locara_conformance.checks import Check

FIRST = "lifecycle.initialize"
"""Without this nothing else can be tried."""

assert _groups


def run(
    command: Sequence[str],
    checks: Sequence[Check],
    *,
    timeout: float = 10.0,
    progress: Callable[[Result], None] = lambda _result: None,
) -> list[Result]:
    """The result of each of ``checks``, and of those that the watch found broken besides.

    :param command: the implementation; :param timeout: seconds to wait for an answer.
    :param progress: told of each result as soon as it is certain: those that are watched at the end.
    """
    lab = Lab(command, timeout=timeout)
    results: dict[str, Result] = {}
    try:
        first = _one(lab, CHECKS[FIRST]) if checks and checks[0].id != FIRST else None
        for check in checks:
            if first is not None and first.outcome in (Outcome.FAILURE, Outcome.ERROR):
                result = Result(check, first.outcome, f"{FIRST} does not hold, which this needs: {first.reason}")
                result.exchange, result.stderr = first.exchange, first.stderr
            else:
                result = _one(lab, check)
            if check.id == FIRST:
                first = result
            results[check.id] = result
            if not check.watched:
                progress(result)
    finally:
        lab.close()
    _add_watched(lab, results)
    in_order = [results[id] for id in CHECKS if id in results]
    for result in in_order:
        if result.check.watched:
            progress(result)
    return in_order


def _one(lab: Lab, check: Check) -> Result:
    began = time.monotonic()
    outcome, reason = Outcome.SUCCESS, ""
    try:
        reason = check.run(lab) or ""
    except Failed as failed:
        outcome, reason = (Outcome.FAILURE if check.level == "MUST" else Outcome.WARNING), str(failed)
    except Late as late:
        outcome, reason = Outcome.WARNING, str(late)
    except Skip as skip:
        outcome, reason = Outcome.SKIPPED, str(skip)
    except HarnessFault as fault:
        outcome, reason = Outcome.ERROR, str(fault)
    except Exception as error:  # noqa: BLE001  whatever a check did not foresee is its own fault
        outcome, reason = Outcome.ERROR, f"{type(error).__name__}: {error}"
    result = Result(check, outcome, reason, time.monotonic() - began)
    if outcome not in (Outcome.SUCCESS, Outcome.SKIPPED):
        result.exchange, result.stderr = lab.exchange(), lab.stderr()
    lab.reset(succeeded=outcome is Outcome.SUCCESS)
    result.seconds = time.monotonic() - began
    return result


def _add_watched(lab: Lab, results: dict[str, Result]) -> None:
    """What the watch found fails its check, also one that was not chosen."""
    for id, found in lab.violations.items():
        check = CHECKS[id]
        result = results.setdefault(id, Result(check, Outcome.SUCCESS))
        sentence, exchange = found[0]
        more = f" ({len(found)} times)" if len(found) > 1 else ""
        result.reason = f"{sentence}{more}" + (f"; {result.reason}" if result.reason else "")
        result.outcome = Outcome.FAILURE if check.level == "MUST" else Outcome.WARNING
        result.exchange = exchange
