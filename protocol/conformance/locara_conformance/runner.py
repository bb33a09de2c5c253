"""Runs checks and collects their results: sequentially within a group, several groups in parallel."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from locara_conformance import groups as _groups  # fills the list of checks
from locara_conformance.checks import CHECKS, Result
from locara_conformance.lab import Lab
from locara_conformance.outcomes import Failed, HarnessFault, Late, Outcome, Skip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locara_conformance.checks import Check
    from locara_conformance.outcomes import Event

    Violations = dict[str, list[tuple[str, list[Event]]]]

FIRST = "lifecycle.initialize"
"""Without this nothing else can be tested."""
ALONE = ("latency",)
"""Groups that report times: nothing else runs at the same time."""

SHAPES = ("jsonrpc.shape", "schema.results", "schema.notifications", "schema.errors")
"""Checks under which the watch reports a message that does not have the contract's form."""

assert _groups


def run(
    command: Sequence[str],
    checks: Sequence[Check],
    *,
    timeout: float = 10.0,
    at_once: int = 1,
    progress: Callable[[Result], None] = lambda _result: None,
) -> list[Result]:
    """Return the results of ``checks``, and of any others that the watch found violated.

    :param command: the implementation; :param timeout: seconds to wait for an answer.
    :param at_once: how many groups run in parallel; each has its own processes and folders, so that the outcome does
        not depend on this.
    :param progress: called with each result as soon as it is certain: watched ones at the end. Called by one
        thread at a time.
    """
    if not checks:
        return []
    rest = [check for check in checks if check.id != FIRST]
    results, violations = _group(command, timeout, [CHECKS[FIRST]], None, progress if len(rest) < len(checks) else None)
    first = results[0]
    by_group = {name: [check for check in rest if check.group == name] for name in dict.fromkeys(c.group for c in rest)}
    together = [name for name in by_group if name not in ALONE]
    stopped, told = threading.Event(), threading.Lock()

    def one(name: str) -> tuple[list[Result], Violations]:
        return _group(command, timeout, by_group[name], first, progress, stopped=stopped, told=told)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            done = list(pool.map(one, together))
        finally:
            stopped.set()  # after an interrupt no further check starts
    stopped.clear()
    done += [one(name) for name in by_group if name in ALONE]
    if len(rest) == len(checks):
        results.clear()  # it was not requested
    for more, found in done:
        results += more
        for id, sentences in found.items():
            violations.setdefault(id, []).extend(sentences)
    by_id = {result.check.id: result for result in results}
    _add_watched(violations, by_id)
    in_order = [by_id[id] for id in CHECKS if id in by_id]
    for result in in_order:
        if result.check.watched:
            progress(result)
    return in_order


def _group(
    command: Sequence[str],
    timeout: float,
    checks: Sequence[Check],
    first: Result | None,
    progress: Callable[[Result], None] | None,
    *,
    stopped: threading.Event | None = None,
    told: threading.Lock | None = None,
) -> tuple[list[Result], Violations]:
    """Run checks that share processes, and collect what the watch found in them; ``first`` is their common
    prerequisite.
    """
    lab = Lab(command, timeout=timeout)
    results: list[Result] = []
    try:
        for check in checks:
            if stopped is not None and stopped.is_set():
                break
            if first is not None and first.outcome in (Outcome.FAILURE, Outcome.ERROR):
                result = Result(check, first.outcome, f"{FIRST} does not hold, which this needs: {first.reason}")
                result.exchange, result.stderr = first.exchange, first.stderr
            else:
                result = _one(lab, check)
            results.append(result)
            if progress is not None and not check.watched:
                with told or threading.Lock():
                    progress(result)
    finally:
        lab.close()
    return results, lab.violations


def _one(lab: Lab, check: Check) -> Result:
    began = time.monotonic()
    outcome, reason = Outcome.SUCCESS, ""
    seen = {id: len(lab.violations.get(id, [])) for id in SHAPES}
    try:
        reason = check.run(lab) or ""
    except Failed as failed:
        outcome, reason = (Outcome.FAILURE if check.level == "MUST" else Outcome.WARNING), str(failed)
    except Late as late:
        outcome, reason = Outcome.WARNING, str(late)
    except Skip as skip:
        outcome, reason = Outcome.SKIPPED, str(skip)
    except Exception as error:  # noqa: BLE001  whatever a check did not foresee
        why = str(error) if isinstance(error, HarnessFault) else f"{type(error).__name__}: {error}"
        outcome, reason = _unforeseen(lab, seen, check, why)
    result = Result(check, outcome, reason, time.monotonic() - began)
    if outcome not in (Outcome.SUCCESS, Outcome.SKIPPED):
        result.exchange, result.stderr = lab.exchange(), lab.stderr()
    lab.reset(succeeded=outcome is Outcome.SUCCESS)
    result.seconds = time.monotonic() - began
    return result


def _unforeseen(lab: Lab, seen: dict[str, int], check: Check, why: str) -> tuple[Outcome, str]:
    """Decide whose fault it is that a check could not continue: the implementation's, if it sent something invalid.

    :param seen: how many such messages there had been before.
    """
    malformed = [one for id in SHAPES for one, _ in lab.violations.get(id, [])[seen[id] :]]
    if not malformed:
        return Outcome.ERROR, why
    outcome = Outcome.FAILURE if check.level == "MUST" else Outcome.WARNING
    return outcome, f"{malformed[0]} (this check cannot go on: {why})"


def _add_watched(violations: Violations, results: dict[str, Result]) -> None:
    """Fail the checks of what the watch found, even if they were not selected."""
    for id, found in violations.items():
        check = CHECKS[id]
        result = results.setdefault(id, Result(check, Outcome.SUCCESS))
        sentence, exchange = found[0]
        more = f" ({len(found)} times)" if len(found) > 1 else ""
        result.reason = f"{sentence}{more}" + (f"; {result.reason}" if result.reason else "")
        result.outcome = Outcome.FAILURE if check.level == "MUST" else Outcome.WARNING
        result.exchange = exchange
