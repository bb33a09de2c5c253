"""Every error of the contract: a table from kind to code, and the exception that carries one.

A new error is one row in :data:`CODES` and one in :data:`MEANINGS`; the OpenRPC document and the schemas are generated
from them.
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

MEANINGS: dict[str, str] = {
    "ParseError": "The line is not one valid JSON text in UTF-8, or is nested too deeply.",
    "InvalidRequest": "The message is not a valid request, or not one that may be sent now.",
    "MethodNotFound": "There is no request method with this name.",
    "InvalidParams": "A parameter is missing, unknown, of the wrong type or out of range; `path` names it.",
    "InternalError": "A fault of the sidecar itself; its log says more.",
    "RequestCancelled": "The request was cancelled; `images` holds what had been finished.",
    "CapabilityDenied": "The app's manifest or the host does not grant this; `reason` says which.",
    "NotInitialized": "The session has not been opened with `initialize`.",
    "ModelNotFound": "The catalogue has no model with this id.",
    "ModelNotInstalled": "The model is known but not installed.",
    "ModelIncomplete": "Files of the installed model are missing.",
    "IntegrityError": "Files of the model differ from their digests.",
    "DownloadFailed": "The download did not succeed; what has arrived is kept for the next try.",
    "LicenseNotAccepted": "The model is gated: its licence must be accepted at `url` first.",
    "InsufficientMemory": "The request does not fit this machine; `suggestions` lists what would.",
    "InsufficientDisk": "There is not enough room on the disk.",
    "EngineUnavailable": "The engine asked for cannot run on this machine.",
    "EngineCrashed": "The engine process died; it is restarted for the next request.",
    "QueueFull": "Too many jobs are waiting.",
    "StorageError": "Reading or writing a file failed; `errno` names the reason.",
    "EngineStalled": "The engine made no progress for too long and was stopped.",
    "UnsupportedProtocolVersion": "The host and the sidecar share no protocol version; `supported` lists its versions.",
    "InvalidImage": "An image that was sent or named cannot be read.",
    "InvalidOutput": "The model made no usable picture (black, or not a number).",
}
"""Error kind to its meaning, one sentence each, for the generated documents."""

RETRYABLE = frozenset({"QueueFull", "EngineCrashed", "EngineStalled", "DownloadFailed", "RequestCancelled"})
"""Kinds for which simply sending the same request again may succeed."""


class RpcError(Exception):
    """An error that is sent to the host as it is.

    :param kind: a key of :data:`CODES`.
    :param message: one sentence for a person; never a prompt, a token or a traceback.
    :param retryable: whether the same request may succeed later; the default depends on the kind.
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
        """Return the JSON-RPC error object: ``code``, ``message``, ``data`` with ``kind`` and ``retryable``."""
        return {
            "code": self.code,
            "message": self.message,
            "data": {"kind": self.kind, "retryable": self.retryable, **self.data},
        }


def invalid_params(path: str, message: str, **data: Any) -> RpcError:
    """Build an InvalidParams error that names the offending member, such as ``$.options.steps``."""
    return RpcError("InvalidParams", message, path=path, **data)
