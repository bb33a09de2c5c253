"""Results as text, as JSON and as JUnit XML."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from locara_conformance.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from locara_conformance.checks import Result
    from locara_conformance.outcomes import Event

_LINES = 14


def line(result: Result) -> str:
    """Return one line of text, with the reason if there is one."""
    outcome = f"{result.outcome} (expected)" if result.expected else str(result.outcome)
    why = f": {result.reason}" if result.reason else ""
    return f"{outcome:8} {result.check.level:6} {result.check.id}{why}"


def text(results: Sequence[Result], stale: Iterable[str], *, all_lines: bool = True) -> str:
    """Return a line for each check, the exchange behind each that did not hold, and a summary."""
    out = [line(result) for result in results if all_lines or result.expected]
    for result in results:
        if result.outcome in (Outcome.FAILURE, Outcome.WARNING, Outcome.ERROR) and not result.expected:
            out += ["", line(result), f"  the contract: {result.check.clause}"]
            out += [f"  {event_line(event)}" for event in result.exchange[-_LINES:]]
            out += [f"  stderr: {one}" for one in result.stderr.splitlines()[-3:]]
    out += ["", *(f"STALE    {id} is among the expected failures but did not fail" for id in stale)]
    return "\n".join([*out, summary(results)]).lstrip("\n") + "\n"


def event_line(event: Event) -> str:
    """Return one line that crossed a pipe, truncated for a screen."""
    shown = event.text if len(event.text) <= 240 else f"{event.text[:240]}…"
    cut = f" ({event.size} bytes)" if len(shown) < len(event.text) or event.size > len(event.text.encode()) else ""
    return f"{event.peer}  {event.seconds:7.3f} s  {event.way} {shown}{cut}"


def summary(results: Sequence[Result]) -> str:
    """Return the number of each outcome, and what that means."""
    count = Counter(result.outcome for result in results)
    counts = ", ".join(f"{count[outcome]} {outcome}" for outcome in Outcome if count[outcome])
    musts = [one for one in results if one.check.level == "MUST"]
    holding = sum(one.outcome in (Outcome.SUCCESS, Outcome.WARNING) for one in musts)
    seconds = sum(one.seconds for one in results)
    return f"{len(results)} checks: {counts or 'none'}; {holding} of {len(musts)} MUSTs hold; {seconds:.0f} s of checks"


def as_json(command: Sequence[str], results: Sequence[Result], stale: Sequence[str]) -> str:
    """Return one object: ``command``, ``summary`` (outcome to number), ``stale``, and ``results`` with the exchange."""
    count = Counter(str(result.outcome) for result in results)
    tree = {
        "command": list(command),
        "summary": {str(outcome): count[str(outcome)] for outcome in Outcome},
        "stale": list(stale),
        "results": [_tree(result) for result in results],
    }
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _tree(result: Result) -> dict[str, Any]:
    return {
        "id": result.check.id,
        "level": result.check.level,
        "clause": result.check.clause,
        "outcome": str(result.outcome),
        "expected": result.expected,
        "reason": result.reason,
        "seconds": round(result.seconds, 3),
        "exchange": [
            {"peer": one.peer, "seconds": round(one.seconds, 3), "way": one.way, "text": one.text, "bytes": one.size}
            for one in result.exchange
        ],
        "stderr": result.stderr,
    }


def junit(results: Sequence[Result]) -> str:
    """Return JUnit XML, with a test case per check; ERROR is ``error``, FAILURE ``failure``, the rest ``skipped``."""
    suites = ElementTree.Element("testsuites", name="locara-conformance")
    for group in dict.fromkeys(one.check.group for one in results):
        mine = [one for one in results if one.check.group == group]
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=group,
            tests=str(len(mine)),
            failures=str(sum(one.outcome is Outcome.FAILURE and not one.expected for one in mine)),
            errors=str(sum(one.outcome is Outcome.ERROR for one in mine)),
            skipped=str(sum(one.outcome is Outcome.SKIPPED or one.expected for one in mine)),
            time=f"{sum(one.seconds for one in mine):.3f}",
        )
        for one in mine:
            _case(suite, one)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, result: Result) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=result.check.group, name=result.check.id, time=f"{result.seconds:.3f}"
    )
    tags = {Outcome.FAILURE: "failure", Outcome.ERROR: "error", Outcome.SKIPPED: "skipped"}
    tag = "skipped" if result.expected else tags.get(result.outcome)
    exchange = "\n".join(event_line(event) for event in result.exchange)
    if tag is not None:
        told = ElementTree.SubElement(case, tag, message=_plain(result.reason))
        told.text = _plain(f"{result.check.clause}\n{exchange}")
    elif result.outcome is Outcome.WARNING:
        ElementTree.SubElement(case, "system-out").text = _plain(f"{result.reason}\n{exchange}")


def _plain(words: str) -> str:
    """Remove the characters that XML cannot contain."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", words)
