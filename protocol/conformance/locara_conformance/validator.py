"""The part of JSON Schema (draft 2020-12) that the contract's schemas use, so that the harness needs no further
package.

An unknown keyword is a fault of the harness, never ignored; the test suite compares the verdicts with those of the
``jsonschema`` package.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from locara_conformance.outcomes import HarnessFault
from locara_protocol.generation import schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_SAID = {"$schema", "$defs", "title", "description", "default", "contentEncoding", "examples"} | {
    "patternProperties",  # with additionalProperties in _further
    "additionalProperties",
}


class Schemas:
    """The schema files of the contract, by name."""

    def __init__(self, documents: dict[str, dict[str, Any]] | None = None) -> None:
        self._documents = schemas.documents() if documents is None else documents

    def problems(self, name: str, part: str, value: Any) -> list[str]:
        """Return what is wrong with ``value`` as the params or the result of a method or notification; empty if nothing
        is.

        :raises KeyError: if the contract has no such schema.
        """
        return list(problems(self._documents[schemas.file_name(name, part)], value))

    def error_problems(self, value: Any) -> list[str]:
        """Return what is wrong with ``value`` as an error object."""
        return list(problems(self._documents["error.json"], value))


def problems(document: dict[str, Any], value: Any) -> Iterator[str]:
    """Yield sentences about ``value``, each with its path from ``$``."""
    return _problems(document, document, value, "$")


def _problems(document: dict[str, Any], schema: Any, value: Any, path: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{path}: no value is allowed here"
        return
    for keyword, argument in schema.items():
        yield from _keyword(document, keyword, argument, value, path)
    if isinstance(value, dict):
        yield from _further(document, schema, cast("dict[str, Any]", value), path)


def _keyword(document: dict[str, Any], keyword: str, argument: Any, value: Any, path: str) -> Iterator[str]:
    if keyword == "$ref":
        yield from _problems(document, _resolve(document, argument), value, path)
    elif keyword in {"anyOf", "oneOf"}:
        yield from _alternatives(document, keyword, argument, value, path)
    elif keyword in _OBJECT:
        if isinstance(value, dict):
            yield from _OBJECT[keyword](document, argument, cast("dict[str, Any]", value), path)
    elif keyword == "items":
        for index, item in enumerate(cast("list[Any]", value) if isinstance(value, list) else []):
            yield from _problems(document, argument, item, f"{path}[{index}]")
    elif keyword in _PLAIN:
        if not _PLAIN[keyword](argument, value):
            yield f"{path}: {_short(value)} breaks {keyword} {argument!r}"
    elif keyword not in _SAID:
        raise HarnessFault(f"the validator does not support the keyword {keyword}")


def _resolve(document: dict[str, Any], reference: str) -> Any:
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step]
    return place


def _alternatives(document: dict[str, Any], keyword: str, branches: list[Any], value: Any, path: str) -> Iterator[str]:
    found = [list(_problems(document, branch, value, path)) for branch in branches]
    fitting = sum(1 for one in found if not one)
    if fitting == 0:
        yield min(found, key=lambda one: (one[0].count("breaks type"), -one[0].count(".")))[0]
    elif keyword == "oneOf" and fitting > 1:
        yield f"{path}: fits {fitting} of the alternatives"


def _properties(document: dict[str, Any], members: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    for name, schema in members.items():
        if name in value:
            yield from _problems(document, schema, value[name], f"{path}.{name}")


def _required(_document: dict[str, Any], names: list[str], value: dict[str, Any], path: str) -> Iterator[str]:
    for name in names:
        if name not in value:
            yield f"{path}: the member {name} is missing"


def _names(document: dict[str, Any], schema: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in value:
        yield from _problems(document, schema, name, f"{path}.{name}")


def _further(document: dict[str, Any], schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    """Check members that are not in ``properties``: against ``patternProperties``, else ``additionalProperties``."""
    patterns = schema.get("patternProperties", {})
    for name, member in value.items():
        fitting = [branch for pattern, branch in patterns.items() if re.search(pattern, name)]
        for branch in fitting:
            yield from _problems(document, branch, member, f"{path}.{name}")
        if not fitting and name not in schema.get("properties", {}):
            yield from _problems(document, schema.get("additionalProperties", True), member, f"{path}.{name}")


def _is(kinds: Any, value: Any) -> bool:
    names = cast("list[str]", kinds) if isinstance(kinds, list) else [kinds]
    return any(_TYPES[name](value) for name in names)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _number(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda argument, value: not _is("number", value) or compare(value, argument)


def _sized(kind: type, compare: Callable[[int, int], bool]) -> Callable[[Any, Any], bool]:
    return lambda argument, value: not isinstance(value, kind) or compare(len(value), argument)  # pyright: ignore[reportArgumentType]


_OBJECT: dict[str, Callable[[dict[str, Any], Any, dict[str, Any], str], Iterator[str]]] = {
    "properties": _properties,
    "required": _required,
    "propertyNames": _names,
}
_PLAIN: dict[str, Callable[[Any, Any], bool]] = {
    "type": _is,
    "enum": lambda argument, value: any(_same(one, value) for one in argument),
    "const": _same,
    "pattern": lambda argument, value: not isinstance(value, str) or re.search(argument, value) is not None,
    "minimum": _number(lambda value, bound: value >= bound),
    "maximum": _number(lambda value, bound: value <= bound),
    "exclusiveMinimum": _number(lambda value, bound: value > bound),
    "minLength": _sized(str, lambda length, bound: length >= bound),
    "maxLength": _sized(str, lambda length, bound: length <= bound),
    "minItems": _sized(list, lambda length, bound: length >= bound),
    "maxItems": _sized(list, lambda length, bound: length <= bound),
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
