"""Named failures of a job: raised in the engine, checked by the daemon, sent to the host."""

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
"""The kinds of error that an engine may report; all others are raised by the daemon only."""

_TEXT = 4000  # characters of a text
_SAID = 1000  # characters of a text from one of our own engines
_NAME = 200  # characters of a member's name
_ENTRIES = 1000  # of an object or an array
_DEPTH = 5
_RESERVED = frozenset({"kind", "message", "images"})


class EngineError(Exception):
    """A job's failure that has a kind in the protocol.

    :param kind: a key of the protocol's error table (``InvalidOutput``, ``ModelIncomplete`` …).
    :param message: and the texts in ``data`` may quote a model's files, so they are made :func:`sendable`.
    """

    def __init__(self, kind: str, message: str, **data: Any) -> None:
        self.kind = kind
        self.message = sendable(message)
        self.data = {name: _sendable(value) for name, value in data.items()}
        super().__init__(self.message)


def sendable(text: str, most: int = _SAID) -> str:
    """Return a text, which may quote a stranger's file or a prompt, as valid UTF-8 of at most ``most`` characters. A
    long one is cut in the middle, because its end names the cause.
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
    """Say in a few words why an error cannot come from an honest engine; None if it can.

    A malicious model may have taken the engine over, so it must not speak for the gate or the hub, or send data that
    would harm whoever passes it on.
    """
    if kind not in ENGINE_KINDS:
        return "such an error is not the engine's"
    if len(message) > _TEXT:
        return "a message is too long"
    if _RESERVED & data.keys() or not isinstance(data.get("retryable", False), bool):
        return "an error's data has a member of ours"
    return None if is_plain(data, _DEPTH) else "an error's data is not plain"


def is_plain(value: Any, depth: int) -> bool:
    """Whether a value is JSON, short, and nested at most ``depth`` deep."""
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
