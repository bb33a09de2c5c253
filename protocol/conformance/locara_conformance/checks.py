"""The list of checks: each has a stable id, the clauses of the contract that it tries, and a level."""

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
    """One thing that is tried.

    :param id: ``group.name``; never given to another check later.
    :param clauses: ids of clauses of the contract (see :mod:`locara_conformance.clauses`).
    :param level: a MUST that does not hold is a FAILURE, a SHOULD a WARNING.
    :param run: tries it; returns if the clause held, with what it measured if
        anything; raises one of :mod:`locara_conformance.outcomes` if not.
    :param watched: whether the watch over all messages judges it, too (see :mod:`locara_conformance.watch`).
    """

    id: str
    clauses: tuple[str, ...]
    level: Level
    run: Callable[[Lab], str | None]
    watched: bool

    @property
    def group(self) -> str:
        """The part of the id before the first point."""
        return self.id.partition(".")[0]

    @property
    def clause(self) -> str:
        """The clauses in the contract's words, each with its id."""
        known = clauses.load()
        return " ".join(f"[{id}] {known[id]['text']}" for id in self.clauses)


@dataclass
class Result:
    """What one check came to. ``exchange`` is what crossed the pipes, for checks that did not succeed."""

    check: Check
    outcome: Outcome
    reason: str = ""
    seconds: float = 0.0
    exchange: list[Event] = field(default_factory=list[Event])
    stderr: str = ""
    expected: bool = False
    """Whether the failure stands in the list of expected failures."""


CHECKS: dict[str, Check] = {}
"""All checks by id, in the order in which they run; filled by importing :mod:`locara_conformance.groups`."""


def check(
    id: str, tried: str, *, level: Level = "MUST", watched: bool = False
) -> Callable[[Callable[[Lab], str | None]], Callable[[Lab], str | None]]:
    """Adds the decorated function to :data:`CHECKS`.

    :param tried: ids of clauses, with spaces between them.
    :raises ValueError: for an id that is taken.
    """

    def add(run: Callable[[Lab], str | None]) -> Callable[[Lab], str | None]:
        if id in CHECKS:
            raise ValueError(f"two checks are called {id}")
        CHECKS[id] = Check(id, tuple(tried.split()), level, run, watched)
        return run

    return add


def chosen(only: list[str]) -> list[Check]:
    """The checks whose id is one of ``only`` or begins with one of them and a point; all of them for none.

    :raises KeyError: for a name that chooses nothing.
    """
    if not only:
        return list(CHECKS.values())
    for name in only:
        if not any(_is_named(id, name) for id in CHECKS):
            raise KeyError(name)
    return [one for one in CHECKS.values() if any(_is_named(one.id, name) for name in only)]


def _is_named(id: str, name: str) -> bool:
    return id == name or id.startswith(f"{name}.")
