"""The record of the gate's decisions: the audit log, a line on stderr and, where that is granted, a file."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

import msgspec

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
    """One session's.

    :param session: its policy, as it is at each decision, says whether there is a file.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._log = AuditLog()
        self._file: AuditWriter | None = None

    def get_ready(self) -> None:
        """Load what recording needs. Off the event loop, before the first decision."""
        if audit_folder(self._session.policy) is not None:
            importlib.import_module("locara_sidecar.capability.auditfile")  # loads ctypes

    def record(self, call: Call, wanted: AccessRequest, decision: Grant | RpcError) -> None:
        """Write down what :func:`authorize` returned or raised for a call."""
        entry = self._log.record_decision(method=call.method, wanted=wanted, decision=decision, request_id=call.id)
        log.info("capability decision", extra={"fields": msgspec.to_builtins(entry)})
        if self._file is None and (folder := audit_folder(self._session.policy)) is not None:
            from locara_sidecar.capability.auditfile import AuditWriter, session_name  # loaded already

            try:
                self._file = AuditWriter(folder, session_name())
            except RuntimeError:  # tried again at the next decision
                log.warning("the capability log cannot be written: the system allows no more threads")
        if self._file is not None:
            self._file.put(entry)

    def list(self, _call: Call, params: CapabilityLogParams) -> CapabilityLogResult:
        """The handler of ``audit.capabilityLog``."""
        return CapabilityLogResult(entries=self._log.entries(params.limit, params.after))

    def flush(self, seconds: float) -> None:
        """Block until the record is on its file, ``seconds`` at most."""
        if self._file is not None:
            self._file.flush(seconds)
