"""What a check can come to, and the exceptions by which it says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """SUCCESS, FAILURE and so on; ``ERROR`` is a fault of the harness and says nothing about the implementation."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    WARNING = "WARNING"
    SKIPPED = "SKIPPED"
    ERROR = "ERROR"


class Failed(Exception):
    """The implementation broke the clause of the check that is running."""


class Late(Exception):
    """It did what the clause says, but not in the time that the clause gives: a WARNING, as machines are shared."""


class Skip(Exception):
    """This platform cannot try the clause. What the implementation lacks is :class:`Failed` instead."""


class HarnessFault(Exception):
    """The harness itself did something wrong, such as sending what it should not."""


@dataclass(frozen=True)
class Event:
    """One line that crossed a pipe, or a note of the harness.

    :param peer: which process of the check, from 1; seconds: since that process was spawned.
    :param way: ``→`` sent, ``←`` received, ``·`` a note.
    :param text: the line, cut if it is long; size: its whole length in bytes.
    """

    peer: int
    seconds: float
    way: str
    text: str
    size: int
