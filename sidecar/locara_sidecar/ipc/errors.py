"""A failure that has a name of its own, on its way from where it was found to the answer."""

from __future__ import annotations

import math
from typing import Any, cast

ENGINE_KINDS = frozenset(
    {
        "EngineUnavailable",
        "InsufficientDisk",
        "InsufficientMemory",
        "IntegrityError",
        "InternalError",
        "InvalidImage",
        "InvalidOutput",
        "InvalidParams",
        "ModelIncomplete",
        "StorageError",
    }
)
"""The errors that an engine can know of; all others are the daemon's to raise."""

_TEXT = 4000  # characters of a text
_SAID = 1000  # characters of one that an engine of ours says
_NAME = 200  # characters of a member's name
_ENTRIES = 1000  # of an object or an array
_DEPTH = 5
_RESERVED = frozenset({"kind", "message", "images"})


class EngineError(Exception):
    """A job's failure that has a name of its own.

    :param kind: a key of the protocol's error table (``InvalidOutput``, ``ModelIncomplete`` …).
    :param message: it and the texts in ``data`` may repeat what a model's files say, and are made
        :func:`sendable`.
    """

    def __init__(self, kind: str, message: str, **data: Any) -> None:
        self.kind = kind
        self.message = sendable(message)
        self.data = {name: _sendable(value) for name, value in data.items()}
        super().__init__(self.message)


def sendable(text: str, most: int = _SAID) -> str:
    """Return a text, which may repeat what a stranger's file or a prompt says, as UTF-8 of at most ``most`` characters:
    a long one is cut in its middle, since the cause is at the end.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 + 3 :]}"
    return text.encode("utf-8", "replace").decode()


def _sendable(value: Any) -> Any:
    match value:
        case str():
            return sendable(value)
        case list():
            return [_sendable(item) for item in cast("list[Any]", value)[:_ENTRIES]]
        case _:
            return value


def wrong_with(kind: str, message: str, data: dict[str, Any]) -> str | None:
    """Why an engine's process cannot have said this of a failure, in a few words; None if it can.

    A model of a stranger's may have taken it over, so it is not to speak for the gate or the hub, nor to say what
    would end who answers with it.
    """
    if kind not in ENGINE_KINDS:
        return "such an error is not the engine's"
    if len(message) > _TEXT:
        return "a message is too long"
    if _RESERVED & data.keys() or not isinstance(data.get("retryable", False), bool):
        return "an error's data has a member of ours"
    return None if is_plain(data, _DEPTH) else "an error's data is not plain"


def is_plain(value: Any, depth: int) -> bool:
    """Whether JSON has it, it is short, and no deeper than ``depth``."""
    match value:
        case None | bool():
            return True
        case int():
            return abs(value) < 1 << 63
        case float():
            return math.isfinite(value)
        case str():
            return len(value) <= _TEXT
        case list():
            items = cast("list[Any]", value)
            return depth > 0 and len(items) <= _ENTRIES and all(is_plain(item, depth - 1) for item in items)
        case dict():
            members = cast("dict[Any, Any]", value)
            named = all(isinstance(name, str) and len(name) <= _NAME for name in members)
            return named and is_plain(list(members.values()), depth)
        case _:
            return False
