"""The possible outcomes of a check, and the exceptions that signal them."""

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
    """The implementation violated the clause of the current check."""


class Late(Exception):
    """It did what the clause says, but not within the clause's time: a WARNING, because machines are shared."""


class Skip(Exception):
    """This platform cannot test the clause. Something missing in the implementation is :class:`Failed` instead."""


class HarnessFault(Exception):
    """The harness itself did something wrong, such as sending something invalid."""


@dataclass(frozen=True)
class Event:
    """One line that crossed a pipe, or a note by the harness.

    :param peer: which process of the check, from 1; seconds: since that process was spawned.
    :param way: ``→`` sent, ``←`` received, ``·`` a note.
    :param text: the line, truncated if it is long; size: its full length in bytes.
    """

    peer: int
    seconds: float
    way: str
    text: str
    size: int
