"""The OpenRPC document of the contract, built from the tables: the result of ``rpc.discover``.

This module maps a row of the method table to OpenRPC. Extensions to the standard: a method has ``x-capability`` (the
rule that the gate applies), ``x-notification`` (what it streams to its channel), ``x-batch`` (whether it is allowed in
a batch) and ``x-before-initialize``; the document has ``x-notifications``, because OpenRPC does not cover them.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from locara_protocol import PROTOCOL_VERSION, errors, methods
from locara_protocol.generation import examples, schemas

OPENRPC_VERSION = "1.3.2"
_REF = "#/components/schemas/{name}"


def document() -> dict[str, Any]:
    """Build the document as a fresh tree of dicts and lists."""
    types = {method.params: None for method in methods.METHODS.values()}
    types |= {method.result: None for method in methods.METHODS.values()}
    for note in methods.NOTIFICATIONS.values():
        types |= dict.fromkeys(schemas.notification_types(note))
    roots, named = schemas.components(types, _REF)
    refs = dict(zip(types, roots, strict=True))
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "Locara image sidecar",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": "Local text-to-image over JSON-RPC 2.0, one message per line on stdin and stdout.",
            "license": {"name": "Apache-2.0"},
        },
        "methods": [_method(method, named, refs) for method in methods.METHODS.values()],
        "components": {
            "schemas": {**named, "Error": schemas.error_object()},
            "errors": {kind: _error(kind) for kind in errors.CODES},
        },
        "x-notifications": [_notification(note, refs) for note in methods.NOTIFICATIONS.values()],
    }


@functools.cache
def document_bytes() -> bytes:
    """Return the document as one line of JSON, built once; can be used as a Raw result."""
    return msgspec.json.encode(document())


def _method(method: methods.Method, named: dict[str, Any], refs: dict[type[Any], Any]) -> dict[str, Any]:
    kinds = dict.fromkeys((*methods.ANY_REQUEST_ERRORS, *method.errors))
    params = _params(named[method.params.__name__])
    shown: dict[str, Any] = {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "schema": refs[method.result]},
        "errors": [{"$ref": f"#/components/errors/{kind}"} for kind in kinds],
        "x-capability": method.need,
        "x-batch": method.in_batch,
        "x-before-initialize": method.before_initialize,
    }
    if method.notification is not None:
        shown["x-notification"] = method.notification
    if (example := examples.recorded().get(method.name)) is not None:
        shown["examples"] = [_example(method.name, params, example)]
    return shown


def _example(name: str, params: list[dict[str, Any]], example: examples.Example) -> dict[str, Any]:
    """Build an example. Tools match its params by position, so any before the last given one are included, too."""
    places = [descriptor["name"] for descriptor in params]
    last = max((places.index(member) for member in example.params), default=-1)
    given = [{"name": member, "value": example.params.get(member)} for member in places[: last + 1]]
    return {"name": name, "params": given, "result": {"name": "result", "value": example.result}}


def _params(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one content descriptor per member; required ones first, as OpenRPC demands."""
    required = set(schema.get("required", ()))
    shown = [
        {"name": name, "required": name in required, "schema": member} for name, member in schema["properties"].items()
    ]
    return sorted(shown, key=lambda descriptor: not descriptor["required"])


def _error(kind: str) -> dict[str, Any]:
    return {
        "code": errors.CODES[kind],
        "message": errors.MEANINGS[kind],
        "data": {"kind": kind, "retryable": kind in errors.RETRYABLE},
    }


def _notification(note: methods.Notification, refs: dict[type[Any], Any]) -> dict[str, Any]:
    frames = [refs[type_] for type_ in schemas.notification_types(note)]
    return {
        "name": note.name,
        "summary": note.summary,
        "direction": note.direction,
        "params": frames[0] if len(frames) == 1 else {"anyOf": frames},
    }
