"""The JSON Schema of ``locara.json``, from the names and patterns in :mod:`locara_protocol.manifest`.

It is for editors and build tools, and accepts what :func:`~locara_protocol.manifest.parse` accepts, with one
exception: a schema cannot recognize a misspelt name, so it accepts one like any unknown member.
"""

from __future__ import annotations

import re
from typing import Any

from locara_protocol import manifest


def schema() -> dict[str, Any]:
    """Return the schema's members, without its dialect."""
    label = {"type": "string", "pattern": _whole(manifest.LABEL)}
    modality = {"type": "string", "minLength": 1, "maxLength": manifest.MAX_MODALITY}
    top: dict[str, Any] = {
        "schema": {"const": manifest.SCHEMA},
        **dict.fromkeys(("name", "publisher", "version"), label),
        "modalities": _nullable(_list(modality)),
        "capabilities": _nullable(_capabilities()),
        **{name: {} for name in manifest.CARRIED},
    }
    return {"title": "locara.json", **_object(top, required=("schema", "name", "publisher", "version"))}


def _capabilities() -> dict[str, Any]:
    pinned = f"^(?:{manifest.MODEL_ID.pattern})(?:@{manifest.PINNED.pattern})?$(?!\\n)"
    model: dict[str, Any] = {"type": "string", "pattern": pinned}
    digest = _nullable({"type": "string", "pattern": _whole(manifest.PINNED)})
    entry = _object({"id": model, "digest": digest, "reason": {}, "required": {}}, required=("id",))
    access = _nullable({"enum": [*manifest.ACCESS, False]})
    remark = "|".join(re.escape(start) for start in manifest.REMARKS)
    paths: dict[str, Any] = {
        "type": "object",
        "propertyNames": {"pattern": f"{_whole(manifest.PATH_NAME)}|^(?:{remark})"},
        "patternProperties": {_whole(manifest.PATH_NAME): access},
    }
    folders = _object(
        {
            "user-folder": access,
            "app-data": access,
            "user-paths": _nullable(paths),
            manifest.USER_SELECTED: _nullable({"enum": [*manifest.SELECTED, False]}),
        }
    )
    host = {"type": "string", "minLength": 1, "maxLength": 253}
    port = {"type": "integer", "minimum": 1, "maximum": 65535}
    net = _object({"allowed_hosts": _nullable(_list(host)), "allowed_ports": _nullable(_list(port))})
    members = {
        "models": _nullable(_list({"anyOf": [model, entry]})),
        "fs": _nullable({"anyOf": [folders, {"const": False}]}),
        "net": _nullable({"anyOf": [{"type": "boolean"}, net]}),
    }
    return _object(members)


def _object(members: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Build an object schema; further members are allowed and grant nothing here."""
    document: dict[str, Any] = {"type": "object", "properties": members}
    return document | ({"required": list(required)} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": manifest.MAX_ENTRIES}


def _nullable(document: dict[str, Any]) -> dict[str, Any]:
    """Allow ``null``, which means the same as absent."""
    return {"anyOf": [document, {"type": "null"}]}


def _whole(pattern: re.Pattern[str]) -> str:
    # (?!\n) because Python's $ also matches before a trailing line break and ECMAScript's does not
    return f"^(?:{pattern.pattern})$(?!\\n)"
