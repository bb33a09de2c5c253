"""The record of the gate's decisions: the audit log, a line on stderr and, where that is granted, a file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec

from locara_protocol.messages import CapabilityLogParams, CapabilityLogResult
from locara_sidecar.capability.audit import AuditLog
from locara_sidecar.capability.authorize import audit_folder

if TYPE_CHECKING:
    from locara_protocol.errors import RpcError
    from locara_sidecar.capability.auditfile import AuditWriter
    from locara_sidecar.capability.authorize import Grant, Wanted
    from locara_sidecar.daemon.calls import Call
    from locara_sidecar.daemon.session import Session

log = logging.getLogger("locara.server")


class Decisions:
    """One session's.

    :param session: its policy, as it is at each decision, says whether there is a file.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._log = AuditLog()
        self._file: AuditWriter | None = None

    def record(self, call: Call, wanted: Wanted, decision: Grant | RpcError) -> None:
        """Write down what :func:`authorize` returned or raised for a call."""
        entry = self._log.record_decision(method=call.method, wanted=wanted, decision=decision, request_id=call.id)
        log.info("capability decision", extra={"fields": msgspec.to_builtins(entry)})
        if self._file is None and (folder := audit_folder(self._session.policy)) is not None:
            from locara_sidecar.capability.auditfile import AuditWriter, session_name  # loads ctypes

            self._file = AuditWriter(folder, session_name())
        if self._file is not None:
            self._file.put(entry)

    def list(self, call: Call, params: CapabilityLogParams) -> CapabilityLogResult:
        """The handler of ``audit.capabilityLog``."""
        return CapabilityLogResult(entries=self._log.entries(params.limit, params.after))

    async def flush(self, seconds: float) -> None:
        """Wait until the record is on its file, ``seconds`` at most."""
        if self._file is not None:
            await anyio.to_thread.run_sync(self._file.flush, seconds)
