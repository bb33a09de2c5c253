"""Records the gate's decisions: in the audit log, as a line on stderr and, if granted, in a file."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

import msgspec

from locara_protocol import jsonrpc
from locara_protocol.messages import CapabilityLogParams, CapabilityLogResult
from locara_sidecar.capability.audit import AuditLog
from locara_sidecar.capability.authorize import audit_folder

if TYPE_CHECKING:
    from locara_protocol.errors import RpcError
    from locara_sidecar.capability.auditfile import AuditWriter
    from locara_sidecar.capability.authorize import AccessRequest, Grant
    from locara_sidecar.daemon.session import Session
    from locara_sidecar.daemon.wire.calls import Call

log = logging.getLogger("locara.server")


class Decisions:
    """The decisions of one session.

    :param session: its policy at the time of each decision says whether there is a file.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._log = AuditLog()
        self._file: AuditWriter | None = None

    def get_ready(self) -> None:
        """Load the modules that recording needs. Call it off the event loop, before the first decision."""
        if audit_folder(self._session.policy) is not None:
            importlib.import_module("locara_sidecar.capability.auditfile")  # loads ctypes

    def record(self, call: Call, wanted: AccessRequest, decision: Grant | RpcError) -> None:
        """Record what :func:`authorize` returned or raised for a call."""
        entry = self._log.record_decision(method=call.method, wanted=wanted, decision=decision, request_id=call.id)
        log.info("capability decision", extra={"fields": msgspec.to_builtins(entry)})
        if self._file is None and (folder := audit_folder(self._session.policy)) is not None:
            from locara_sidecar.capability.auditfile import AuditWriter, session_name  # loaded already

            try:
                self._file = AuditWriter(folder, session_name())
            except RuntimeError:  # retried at the next decision
                log.warning("the capability log cannot be written: the system allows no more threads")
        if self._file is not None:
            self._file.put(entry)

    def encoded(self, params: CapabilityLogParams) -> msgspec.Raw:
        """Return the answer to ``audit.capabilityLog``. Thread-safe; a thousand entries take some milliseconds, so call
        it off the event loop.
        """
        return jsonrpc.encode(CapabilityLogResult(entries=self._log.entries(params.limit, params.after)))

    def flush(self, seconds: float) -> None:
        """Block until the record has been written to its file, for at most ``seconds``."""
        if self._file is not None:
            self._file.flush(seconds)
