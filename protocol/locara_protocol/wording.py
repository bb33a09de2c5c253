"""Describes a parameter type in words: "an integer from 1 to 200", "one of "exact", "fast"".

These are the messages of InvalidParams errors. They never repeat what the host sent, except the name of an unknown
member, cut to a readable length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import msgspec.inspect as mi
import msgspec.json

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SHOWN = 64
"""The longest name, in characters, that a message or a path repeats."""

MISSPELT = 0.8
"""A name at least this similar counts as misspelt; below that, down to 0.7, it only gets a suggestion."""

_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*")


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def expected(type_: Any) -> str:
    """Describe what a member of this type must be, as the end of "must be …"; ``null`` is not mentioned."""
    return _words(mi.type_info(type_))


def _words(info: mi.Type) -> str:
    match info:
        case mi.Metadata():
            extra = cast("dict[str, Any]", cast("Any", info).extra_json_schema or {})
            return str(extra["description"]) if "description" in extra else _words(info.type)
        case mi.UnionType():
            # The forms of one thing (a channel) have the same description, which is then given once.
            parts = [_words(part) for part in info.types if not isinstance(part, mi.NoneType)]
            return " or ".join(dict.fromkeys(parts))
        case mi.IntType():
            return "an integer" + _between(info.ge, info.le)
        case mi.FloatType():
            return "a number" + _between(info.ge, info.le)
        case mi.StrType():
            return _string(info)
        case mi.BoolType():
            return "true or false"
        case mi.LiteralType():
            return "one of " + ", ".join(_quoted(value) for value in info.values)
        case mi.StructType() | mi.DictType():
            return "an object"
        case mi.ListType():
            between = _between(info.min_length, info.max_length)
            return f"an array with{between.removeprefix(' from')} entries" if between else "an array"
        case _:
            return "a valid value"


def _between(low: float | None, high: float | None) -> str:
    match (low, high):
        case None, None:
            return ""
        case float() | int(), None:
            return f" of at least {_plain(low)}"
        case None, float() | int():
            return f" of at most {_plain(high)}"
        case _:
            return f" from {_plain(low)} to {_plain(high)}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _string(info: mi.StrType) -> str:
    if info.min_length == 1 and info.max_length is None:
        return "a string that is not empty"
    if info.min_length is None and info.max_length is None:
        return "a string"
    return f"a string{_between(info.min_length, info.max_length)} characters"


def received(text: memoryview) -> str:
    """Name the kind of JSON value received, from its text."""
    match bytes(text[:1]):
        case b'"':
            return "a string"
        case b"{":
            return "an object"
        case b"[":
            return "an array"
        case b"n":
            return "null"
        case b"t" | b"f":
            return "a boolean"
        case _:
            fraction = any(byte in b".eE" for byte in text[:MAX_SHOWN])
            return "a number with a fraction or an exponent" if fraction else "an integer"


def nearest(name: str, known: Sequence[str], likeness: float = 0.7) -> str | None:
    """Return the known name that was probably meant, if one is at least that similar (1 is the same name)."""
    if len(name) > MAX_SHOWN:
        return None
    folded = {candidate.lower().replace("_", ""): candidate for candidate in known}
    import difflib  # needed for mistakes only, and slow to import

    near = difflib.get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=likeness)
    return folded[near[0]] if near else None


def join(path: str, name: str) -> str:
    """Return the path of a member: ``$.options.steps``, or ``$["odd name"]``; a very long name is cut."""
    name = shown(name)
    if _PLAIN_NAME.fullmatch(name):
        return f"{path}.{name}"
    return f"{path}[{_quoted(name)}]"


def subject(path: str) -> str:
    """Name the member at ``path`` the way a sentence does."""
    return "`params`" if path == "$" else f"`{path}`"


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """Cut the text to ``limit`` characters."""
    return text if len(text) <= limit else text[:limit] + "…"
