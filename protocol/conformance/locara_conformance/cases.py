"""The fixtures: what is sent and what must come back, as data (see ``fixtures/README.md`` for the format)."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from locara_conformance.outcomes import HarnessFault

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSENT = {"$absent": True}


@dataclass(frozen=True)
class Case:
    """One case of a fixture file; ``file`` is its name without the extension, ``number`` the case's position from 1."""

    file: str
    number: int
    description: str
    send: list[Any]
    expect: list[Any]
    initialized: bool
    any_order: bool
    last: bool
    needs: str
    """``protocol`` if the protocol package alone can answer it, ``sidecar`` if it needs a process."""

    def lines(self) -> list[tuple[bytes, bytes]]:
        """Return the lines to send, each with its ending; built each time, because some are large."""
        return [_expand(line) for line in self.send]

    def problem(self, answers: list[Any]) -> str | None:
        """Return what is wrong with the answers, or None."""
        expected, left = list(self.expect), list(answers)
        if self.any_order:
            expected, left = [_ordered(one) for one in expected], [_ordered(one) for one in left]
        for one in expected:
            place = 0 if not self.any_order else next((at for at, other in enumerate(left) if fits(one, other)), None)
            if place is None or place >= len(left):
                return f"no answer like {shorten(one)} came" + (f", but {shorten(left)}" if left else "")
            if not fits(one, left[place]):
                return f"{difference(one, left[place])}; {shorten(left[place])} came where {shorten(one)} was expected"
            del left[place]
        return f"{shorten(left)} came unexpectedly" if left else None


@functools.cache
def load() -> list[Case]:
    """Return all cases, file by file.

    :raises HarnessFault: if the files are missing.
    """
    return [
        Case(
            file=path.stem,
            number=number,
            description=case["description"],
            send=case["send"],
            expect=case["expect"],
            initialized=case.get("initialized", False),
            any_order=case.get("anyOrder", False),
            last=case.get("last", False),
            needs=case.get("needs", "protocol"),
        )
        for path in sorted(folder("jsonrpc").glob("*.json"))
        for number, case in enumerate(json.loads(path.read_text("utf-8")), 1)
    ]


@functools.cache
def manifests(file: str) -> list[dict[str, Any]]:
    """Return the cases of ``manifests/taken.json`` or ``refused.json``."""
    return json.loads((folder("manifests") / f"{file}.json").read_text("utf-8"))


def folder(name: str) -> Path:
    """Return a fixture folder: in the project, else next to this module.

    :raises HarnessFault: if it is in neither place.
    """
    here = Path(__file__).resolve()
    for folder in (*here.parents[3:4], here.parent):
        if (folder / "fixtures" / name).is_dir():
            return folder / "fixtures" / name
    raise HarnessFault("the fixtures were not installed with the harness")


def fits(expected: Any, actual: Any) -> bool:
    """Whether ``actual`` matches what is expected: objects may have more members, ``1`` is neither ``1.0`` nor
    ``true``.

    ``$absent``, ``$oneOf``, ``$length`` and ``$increasing`` are explained in ``fixtures/README.md``.
    """
    if isinstance(expected, dict):
        members = cast("dict[str, Any]", expected)
        if "$oneOf" in members:
            return any(fits(one, actual) for one in members["$oneOf"])
        if "$length" in members:
            return isinstance(actual, list) and len(cast("list[Any]", actual)) == members["$length"]
        if "$increasing" in members:
            return isinstance(actual, list) and _increases(cast("list[Any]", actual), members["$increasing"])
        if members == _ABSENT or not isinstance(actual, dict):
            return False
        there = cast("dict[str, Any]", actual)
        return all(
            fits(member, there[name]) if name in there else _may_be_absent(member) for name, member in members.items()
        )
    if isinstance(expected, list):
        entries = cast("list[Any]", expected)
        if not isinstance(actual, list) or len(entries) != len(cast("list[Any]", actual)):
            return False
        return all(fits(one, other) for one, other in zip(entries, cast("list[Any]", actual), strict=True))
    return type(expected) is type(actual) and expected == actual


def difference(expected: Any, actual: Any, path: str = "$") -> str:
    """Describe the first place where ``actual``, which does not match, differs from what is expected. Both may be
    much longer than what a report shows of them.
    """
    if expected == _ABSENT:
        return f"{path} is there, and must not be"
    if isinstance(expected, dict) and "$oneOf" in expected:
        return f"{path} is {shorten(actual)}, none of {shorten(expected['$oneOf'])}"
    for step, one, other in _pairs(expected, actual):
        if not fits(one, other) if other is not ... else not _may_be_absent(one):
            return f"{path}{step} is missing" if other is ... else difference(one, other, f"{path}{step}")
    return f"{path} is {shorten(actual)}, not {shorten(expected)}"


def _pairs(expected: Any, actual: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the members or entries of both with the step to them; ``...`` for what ``actual`` does not have."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        there = cast("dict[str, Any]", actual)
        for name, member in cast("dict[str, Any]", expected).items():
            if not name.startswith("$"):
                yield f".{name}", member, there.get(name, ...)
    elif isinstance(expected, list) and isinstance(actual, list):
        for at, (one, other) in enumerate(zip(cast("list[Any]", expected), cast("list[Any]", actual), strict=False)):
            yield f"[{at}]", one, other


def _increases(entries: list[Any], member: str) -> bool:
    numbers = [cast("dict[str, Any]", one).get(member) if isinstance(one, dict) else None for one in entries]
    if not numbers or not all(isinstance(one, int | float) for one in numbers):
        return False
    return all(one < other for one, other in itertools.pairwise(cast("list[float]", numbers)))


def _may_be_absent(expected: Any) -> bool:
    """Whether a missing member matches what is expected."""
    if not isinstance(expected, dict):
        return False
    members = cast("dict[str, Any]", expected)
    return members == _ABSENT or any(_may_be_absent(one) for one in members.get("$oneOf", []))


def shorten(value: Any) -> str:
    """Format a value as JSON for a person, truncated if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _expand(line: Any) -> tuple[bytes, bytes]:
    if isinstance(line, str):
        return line.encode(), b"\n"
    return b"".join(_part(part) for part in line["parts"]), line.get("ending", "\n").encode()


def _part(part: Any) -> bytes:
    if isinstance(part, str):
        return part.encode()
    return bytes.fromhex(part["hex"]) if "hex" in part else part["repeat"].encode() * part["times"]


def _ordered(answer: Any) -> Any:
    """Sort a batch's answers, so that concurrent entries compare."""
    if not isinstance(answer, list):
        return answer
    entries = cast("list[Any]", answer)
    return sorted(entries, key=lambda one: json.dumps(one.get("id") if isinstance(one, dict) else None))  # pyright: ignore[reportUnknownMemberType]
