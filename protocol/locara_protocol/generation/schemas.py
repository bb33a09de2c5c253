"""JSON Schemas (draft 2020-12) of everything on the wire, from the message types.

This module decides which types are roots, and how their files are named. The types themselves are in
:mod:`locara_protocol.messages` and the modules next to it; nothing is described twice.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from locara_protocol import channel_messages as channels
from locara_protocol import errors, methods
from locara_protocol import messages as m
from locara_protocol.generation import manifest_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from locara_protocol.image_messages import Forms

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_name(wire_name: str, part: str) -> str:
    """Return the name of a method's or notification's schema file; ``part`` is params or result."""
    return f"{wire_name.removeprefix('$/').replace('/', '.')}.{part}.json"


def notification_types(note: methods.Notification) -> tuple[type[Any], ...]:
    """Return the types of a notification's params: a channel's messages, and its end frame."""
    return (note.params, channels.ChannelEnd) if issubclass(note.params, channels.ChannelFrame) else (note.params,)


def components(types: Iterable[type[Any]], ref_template: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the schemas of ``types`` and, by name, those of everything they refer to."""
    roots, named = msgspec.json.schema_components(types, ref_template=ref_template)
    for schema in named.values():
        if "description" in schema:  # a docstring, which only Python 3.13 and later store without its indentation
            schema["description"] = inspect.cleandoc(schema["description"])
    for type_ in _struct_types(m.Result):
        if type_.__name__ in named:
            always = [field.encode_name for field in msgspec.structs.fields(type_) if not _may_be_unset(field.type)]
            named[type_.__name__]["required"] = always
    for type_ in _struct_types(m.Params):
        forms: Forms = getattr(type_, "forms", ())
        if forms and type_.__name__ in named:
            named[type_.__name__]["oneOf"] = [_only(form, forms) for form in forms]
    return list(roots), {name: named[name] for name in sorted(named)}


def _only(form: dict[str, str], forms: Forms) -> dict[str, Any]:
    """Return the schema of an object in one of its forms."""
    kinds = {name: {"type": form.get(name, "null")} for one in forms for name in one}
    return {"type": "object", "required": list(form), "properties": kinds}


def _struct_types(base: type[Any]) -> list[type[Any]]:
    return [type_ for child in base.__subclasses__() for type_ in (child, *_struct_types(child))]


def _may_be_unset(type_: Any) -> bool:
    """Whether a member of this type may be missing from a result; one with a default is always sent."""
    return msgspec.UnsetType in get_args(type_)


def error_object() -> dict[str, Any]:
    """Return the schema of a JSON-RPC error object."""
    return {
        "title": "Error",
        "type": "object",
        "required": ["code", "message", "data"],
        "properties": {
            "code": {"type": "integer", "enum": sorted(errors.CODES.values())},
            "message": {"type": "string", "description": "One sentence for a person."},
            "data": {
                "type": "object",
                "required": ["kind", "retryable"],
                "properties": {
                    "kind": {"type": "string", "enum": list(errors.CODES)},
                    "retryable": {"type": "boolean"},
                    "path": {"type": "string", "description": "InvalidParams: the member at fault, from `$`."},
                },
            },
        },
    }


def documents() -> dict[str, dict[str, Any]]:
    """Return every schema file: name to document."""
    out: dict[str, dict[str, Any]] = {}
    for method in methods.METHODS.values():
        out[file_name(method.name, "params")] = _document(f"{method.name} params", (method.params,))
        out[file_name(method.name, "result")] = _document(f"{method.name} result", (method.result,))
    for note in methods.NOTIFICATIONS.values():
        out[file_name(note.name, "params")] = _document(f"{note.name} params", notification_types(note))
    out["manifest.json"] = {"$schema": DIALECT, **manifest_schema.schema()}
    out["error.json"] = {"$schema": DIALECT, **error_object()}
    return out


def _document(title: str, types: tuple[type[Any], ...]) -> dict[str, Any]:
    roots, named = components(types, "#/$defs/{name}")
    root: dict[str, Any] = roots[0] if len(roots) == 1 else {"anyOf": roots}
    return {"$schema": DIALECT, "title": title, **root, "$defs": named}
