"""The errors of both clients.

::

    ClientError
    ├── RemoteError              the sidecar answered with an error
    ├── SidecarGoneError         the process ended during a call, or no longer takes input
    └── ProtocolViolationError   the sidecar broke the contract
"""

from __future__ import annotations

from typing import Any

from locara_protocol.errors import CODES

_KINDS = {code: kind for kind, code in CODES.items()}


class ClientError(Exception):
    """Base of everything that a call can raise, except TimeoutError."""


class RemoteError(ClientError):
    """The sidecar answered with an error; ``data`` is as sent."""

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data

    @property
    def kind(self) -> str:
        """The error's kind, from its data or, failing that, from its code."""
        return str(self.data.get("kind", _KINDS.get(self.code, "InternalError")))

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if it is sent again."""
        return self.data.get("retryable") is True


class SidecarGoneError(ClientError):
    """The process has ended or closed its output; ``status`` is its exit status, if known."""

    def __init__(self, status: int | None) -> None:
        super().__init__("The sidecar is gone." if status is None else f"The sidecar ended with status {status}.")
        self.status = status


class ProtocolViolationError(ClientError):
    """The sidecar sent something that the contract forbids."""
