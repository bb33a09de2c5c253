"""Errors that the engine's client reports because the engine no longer can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_protocol.errors import RpcError

if TYPE_CHECKING:
    from locara_sidecar.ipc import frames

_REFUSED = "gpuInterrupted"
_UPDATED = "updated"


def cancelled() -> RpcError:
    """The job was stopped on request."""
    return RpcError("RequestCancelled", "The request was cancelled.")


def unavailable(engine: str, reason: str) -> RpcError:
    """The engine, or the system, reports that it cannot run here."""
    return RpcError("EngineUnavailable", f"The {engine} engine is not available: {reason}.", reason=reason)


def not_started(engine: str, error: Exception) -> Exception:
    """No process could be started; an error that does not come from the system is returned unchanged."""
    if not isinstance(error, (OSError, MemoryError)):
        return error
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return unavailable(engine, f"its process could not be started ({why})")


def after_update(error: RpcError) -> RpcError:
    """An engine could not be used, and the sidecar's files are not those that the daemon was started from.

    :param error: the failure; returned unchanged unless it is an EngineUnavailable that the system did not cause and
        that does not say this already.
    """
    if error.kind != "EngineUnavailable" or error.data.get("reason") in (_REFUSED, _UPDATED):
        return error
    text = "An update replaced the sidecar's files while it was running, and it cannot use the new engine."
    text += " Restart the sidecar."
    data: dict[str, Any] = {**error.data, "reason": _UPDATED}
    return RpcError("EngineUnavailable", f"{text} ({error.message})", **data)


def ended(how: dict[str, Any], phase: str | None) -> RpcError:
    """The process ended on its own.

    :param how: ``{"signal": "SIGSEGV"}`` or ``{"status": 1}``.
    :param phase: of the running job; None while the engine was still starting.
    """
    name = str(how.get("signal") or f"status {how['status']}")
    if phase is None:
        return RpcError("EngineUnavailable", f"The engine ended while it was starting ({name}).", reason=name, **how)
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    text = f"The engine process ended in the middle of a job ({name}{hint})."
    return RpcError("EngineCrashed", text, **how, phase=phase)


def stalled(seconds: float, phase: str) -> RpcError:
    """The process was killed because it made no progress for ``seconds``."""
    text = f"The engine made no progress for {seconds:g} s and was stopped."
    return RpcError("EngineStalled", text, phase=phase, seconds=seconds)


def is_lasting(fault: frames.Failed) -> bool:
    """Whether a reported fault may have lasting effects on the process, so that it has to be replaced.

    Metal counts refused work against the process that submitted it, and may refuse everything after that.
    """
    return fault.kind == "EngineUnavailable" and fault.data.get("reason") == _REFUSED


def garbled(phase: str | None) -> RpcError:
    """The process was killed because it sent something that is not a message."""
    text = "The engine sent something that is not a valid message and was stopped."
    if phase is None:
        return RpcError("EngineUnavailable", text, reason="protocol")
    return RpcError("EngineCrashed", text, reason="protocol", phase=phase)
