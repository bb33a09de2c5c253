"""The list of checks: each has a stable id, the clauses of the contract that it tests, and a level."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from locara_conformance import clauses
from locara_conformance.outcomes import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_conformance.lab import Lab
    from locara_conformance.outcomes import Outcome

Level = Literal["MUST", "SHOULD"]


@dataclass(frozen=True)
class Check:
    """One test.

    :param id: ``group.name``; never reused for another check.
    :param clauses: ids of clauses of the contract (see :mod:`locara_conformance.clauses`).
    :param level: a MUST that does not hold is a FAILURE, a SHOULD a WARNING.
    :param run: tests it; returns if the clause held, with a measurement if there is one; otherwise raises one of
        :mod:`locara_conformance.outcomes`.
    :param watched: whether the watch over all messages judges it, too (see :mod:`locara_conformance.watch`).
    """

    id: str
    clauses: tuple[str, ...]
    level: Level
    run: Callable[[Lab], str | None]
    watched: bool

    @property
    def group(self) -> str:
        """The part of the id before the first dot."""
        return self.id.partition(".")[0]

    @property
    def clause(self) -> str:
        """The clauses in the contract's words, each with its id."""
        known = clauses.load()
        return " ".join(f"[{id}] {known[id]['text']}" for id in self.clauses)


@dataclass
class Result:
    """The outcome of one check. ``exchange`` is what crossed the pipes, for checks that did not succeed."""

    check: Check
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    exchange: list[Event] = field(default_factory=list[Event])
    stderr: str = ""
    expected: bool = False
    """Whether the failure is in the list of expected failures."""


CHECKS: dict[str, Check] = {}
"""All checks by id, in the order in which they run; filled by importing :mod:`locara_conformance.groups`."""


def check(
    id: str, tried: str, *, level: Level = "MUST", watched: bool = False
) -> Callable[[Callable[[Lab], str | None]], Callable[[Lab], str | None]]:
    """Add the decorated function to :data:`CHECKS`.

    :param tried: ids of clauses, separated by spaces.
    :raises ValueError: for a duplicate id.
    """

    def add(run: Callable[[Lab], str | None]) -> Callable[[Lab], str | None]:
        if id in CHECKS:
            raise ValueError(f"two checks are called {id}")
        CHECKS[id] = Check(id, tuple(tried.split()), level, run, watched)
        return run

    return add


def chosen(only: list[str]) -> list[Check]:
    """Return the checks whose id is one of ``only`` or begins with one of them and a dot; all if ``only`` is empty.

    :raises KeyError: for a name that matches nothing.
    """
    if not only:
        return list(CHECKS.values())
    for name in only:
        if not any(_is_named(id, name) for id in CHECKS):
            raise KeyError(name)
    return [one for one in CHECKS.values() if any(_is_named(one.id, name) for name in only)]


def _is_named(id: str, name: str) -> bool:
    return id == name or id.startswith(f"{name}.")
