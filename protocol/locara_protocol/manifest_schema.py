"""The JSON Schema of ``locara.json``, from the names and patterns that :mod:`locara_protocol.manifest` reads it by.

For editors and build tools: what it accepts is what :func:`~locara_protocol.manifest.parse` accepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_protocol import manifest

if TYPE_CHECKING:
    import re


def schema() -> dict[str, Any]:
    """The schema's members, without its dialect."""
    label = {"type": "string", "pattern": _whole(manifest.LABEL)}
    top: dict[str, Any] = {
        "schema": {"const": manifest.SCHEMA},
        **dict.fromkeys(("name", "publisher", "version"), label),
        "modalities": _nullable(_list({"type": "string", "pattern": _whole(manifest.MODALITY)})),
        "capabilities": _nullable(_capabilities()),
        **{name: {} for name in manifest.CARRIED},
    }
    return {"title": "locara.json", **_object(top, required=("schema", "name", "publisher", "version"))}


def _capabilities() -> dict[str, Any]:
    pinned = f"^(?:{manifest.MODEL_ID.pattern})(?:@{manifest.PINNED.pattern})?$(?!\\n)"
    entry: dict[str, Any] = {"id": {"type": "string", "pattern": pinned}, "reason": {}, "required": {}}
    access = _nullable({"enum": [*manifest.ACCESS, False]})
    paths: dict[str, Any] = {
        "type": "object",
        "propertyNames": {"pattern": _whole(manifest.PATH_NAME)},
        "additionalProperties": access,
    }
    folders = _object({"user-folder": access, "app-data": access, "user-paths": _nullable(paths)})
    host = {"type": "string", "minLength": 1, "maxLength": 253}
    port = {"type": "integer", "minimum": 1, "maximum": 65535}
    net = _object({"allowed_hosts": _nullable(_list(host)), "allowed_ports": _nullable(_list(port))})
    members = {
        "models": _nullable(_list(_object(entry, required=("id",)))),
        "fs": _nullable({"anyOf": [folders, {"const": False}]}),
        "net": _nullable({"anyOf": [{"type": "boolean"}, net]}),
    }
    # other families of capabilities are carried, and grant nothing here
    return {"type": "object", "properties": members}


def _object(members: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "object", "properties": members, "additionalProperties": False}
    return document | ({"required": list(required)} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": manifest.MAX_ENTRIES}


def _nullable(document: dict[str, Any]) -> dict[str, Any]:
    """``null`` is the same as absent."""
    return {"anyOf": [document, {"type": "null"}]}


def _whole(pattern: re.Pattern[str]) -> str:
    # (?!\n) because Python's $ also matches before a last line break, which ECMA's does not
    return f"^(?:{pattern.pattern})$(?!\\n)"
