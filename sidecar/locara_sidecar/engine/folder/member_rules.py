"""What a member of a configuration may be: each function here makes a rule, which gives the value back, or in its
plainest form, or says what is wrong with it. Bounds are far beyond every model that there is, and small enough that
nothing which is made from a number of their size takes a noticeable share of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

Rule = Callable[[Any], Any]
"""The value as it is read; raises ValueError with what it should be."""


def whole(low: int, high: int) -> Rule:
    """A whole number from ``low`` to ``high``; 24.0 and true are none."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Rule:
    """A number from ``low`` to ``high``, finite."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value)  # transformers takes no 0 for 0.0

    return check


def switch(value: Any) -> bool:
    """True or false; null is false, as Python programs that ask only whether it is set take it."""
    if value is not None and not isinstance(value, bool):
        raise ValueError("true or false")
    return bool(value)


def off(value: Any) -> bool:
    """False or null, read as false."""
    if value is not None and value is not False:
        raise ValueError("false")
    return False


def text(value: Any) -> str:
    """A word; which ones are known is for whoever uses it."""
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
    """A list of ``least`` to ``most`` values of ``rule``."""

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
    """What any of ``rules`` takes."""

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
    """Nothing."""
    if value is not None:
        raise ValueError("null")
