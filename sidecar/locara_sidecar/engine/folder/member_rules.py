"""Rules for the members of a configuration. Each function is or returns a rule.

A rule returns the value, possibly in a plainer form, or raises an error that says what it should be. Bounds are far
beyond any existing model, and low enough that nothing built from a number within them uses a significant share of
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

Rule = Callable[[Any], Any]
"""Returns the value as it is read; raises ValueError saying what it should be."""


def whole(low: int, high: int) -> Rule:
    """An integer from ``low`` to ``high``; not 24.0 or true."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Rule:
    """A finite number from ``low`` to ``high``."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value)  # transformers does not accept 0 for 0.0

    return check


def switch(value: Any) -> bool:
    """True or false. Null counts as false, as in Python code that only tests the value."""
    if value is not None and not isinstance(value, bool):
        raise ValueError("true or false")
    return bool(value)


def off(value: Any) -> bool:
    """False or null, read as false."""
    if value is not None and value is not False:
        raise ValueError("false")
    return False


def text(value: Any) -> str:
    """A string of any value, checked where it is used."""
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError("a word")
    return value


def one_of(*values: Any) -> Rule:
    """One of ``values``, by type and value."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(known) and value == known for known in values):
            raise ValueError(" or ".join("null" if known is None else repr(known) for known in values))
        return value

    return check


def each(rule: Rule, most: int, *, least: int = 1) -> Rule:
    """A list of ``least`` to ``most`` values that follow ``rule``."""

    def check(value: Any) -> list[Any]:
        try:
            if not isinstance(value, list) or not least <= len(cast("list[Any]", value)) <= most:
                raise ValueError
            return [rule(item) for item in cast("list[Any]", value)]
        except ValueError as error:
            inner = f", each {error}" if error.args else ""
            raise ValueError(f"a list of {least} to {most} values{inner}") from error

    return check


def either(*rules: Rule) -> Rule:
    """A value that follows any of ``rules``."""

    def check(value: Any) -> Any:
        wanted: list[str] = []
        for rule in rules:
            try:
                return rule(value)
            except ValueError as error:
                wanted.append(str(error))
        raise ValueError(", or ".join(wanted))

    return check


def null(value: Any) -> None:
    """Null."""
    if value is not None:
        raise ValueError("null")
