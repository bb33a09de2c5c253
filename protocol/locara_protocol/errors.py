"""Every error of the contract: one table, name to code, and the exception that carries one.

Owned here: the codes. A new error is one row in :data:`CODES`; the OpenRPC document, the
types and the README table are generated from it.
"""

from __future__ import annotations

from typing import Any

CODES: dict[str, int] = {
    "ParseError": -32700,
    "InvalidRequest": -32600,
    "MethodNotFound": -32601,
    "InvalidParams": -32602,
    "InternalError": -32603,
    "RequestCancelled": -32800,
    "CapabilityDenied": -32001,
    "NotInitialized": -32002,
    "ModelNotFound": -32003,
    "ModelNotInstalled": -32004,
    "ModelIncomplete": -32005,
    "IntegrityError": -32006,
    "DownloadFailed": -32007,
    "LicenseNotAccepted": -32008,
    "InsufficientMemory": -32009,
    "InsufficientDisk": -32010,
    "EngineUnavailable": -32011,
    "EngineCrashed": -32012,
    "QueueFull": -32013,
    "StorageError": -32014,
    "EngineStalled": -32015,
    "UnsupportedProtocolVersion": -32016,
    "InvalidImage": -32017,
    "InvalidOutput": -32018,
}
"""Error kind to JSON-RPC code."""

RETRYABLE = frozenset({"QueueFull", "EngineCrashed", "EngineStalled", "DownloadFailed", "RequestCancelled"})
"""Kinds for which the same request may succeed if it is simply sent again."""


class RpcError(Exception):
    """An error that reaches the host as it stands.

    :param kind: a key of :data:`CODES`.
    :param message: one sentence for a person; never a prompt, a token or a traceback.
    :param retryable: whether the same request may succeed later; default by kind.
    :param data: further members of the wire error's ``data`` (camelCase names).
    :raises KeyError: for a kind that is not in the table.
    """

    def __init__(self, kind: str, message: str, *, retryable: bool | None = None, **data: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = CODES[kind]
        self.message = message
        self.retryable = kind in RETRYABLE if retryable is None else retryable
        self.data = data

    def to_wire(self) -> dict[str, Any]:
        """The JSON-RPC error object: ``code``, ``message``, ``data`` with ``kind`` and ``retryable``."""
        return {
            "code": self.code,
            "message": self.message,
            "data": {"kind": self.kind, "retryable": self.retryable, **self.data},
        }


def invalid_params(path: str, message: str, **data: Any) -> RpcError:
    """An InvalidParams error that names the member at fault, as in ``$.options.steps``."""
    return RpcError("InvalidParams", message, path=path, **data)
