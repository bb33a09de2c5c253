"""The in-memory record of the gate's decisions: bounded, without prompts or the user's folders."""

from __future__ import annotations

import collections
import datetime
import heapq
import itertools
import sys
import threading
from typing import TYPE_CHECKING, Literal

from locara_protocol.errors import RpcError
from locara_protocol.messages import MAX_AUDIT_ENTRIES, AuditEntry
from locara_protocol.wording import shown

if TYPE_CHECKING:
    from locara_sidecar.capability.authorize import AccessRequest, Grant

_MAX_RESOURCE = 256


class AuditLog:
    """The latest ``capacity`` decisions; thread-safe.

    Above that, the kind (allowed or denied) with more entries loses its oldest one: a flood of allowed calls leaves
    half of the record to denials, and the other way round.
    """

    def __init__(self, capacity: int = MAX_AUDIT_ENTRIES) -> None:
        self._capacity = capacity
        self._kinds: dict[str, collections.deque[AuditEntry]] = {
            "allow": collections.deque(),
            "deny": collections.deque(),
        }
        self._seq = itertools.count(1)
        self._lock = threading.Lock()

    def record(
        self,
        *,
        capability: str,
        resource: str,
        decision: Literal["allow", "deny"],
        reason: str,
        request_id: int | str | None,
    ) -> AuditEntry:
        """Add a decision and return it; an older one is dropped when the log is full."""
        now = datetime.datetime.now(datetime.UTC)
        with self._lock:
            entry = AuditEntry(
                seq=next(self._seq),
                time=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                capability=capability,
                resource=sys.intern(shown(resource, _MAX_RESOURCE)),  # thousands of entries share them
                decision=decision,
                reason=sys.intern(reason),
                request_id=request_id,
            )
            self._kinds[decision].append(entry)
            if sum(map(len, self._kinds.values())) > self._capacity:
                max(self._kinds.values(), key=len).popleft()
        return entry

    def record_decision(
        self, *, method: str, wanted: AccessRequest, decision: Grant | RpcError, request_id: int | str | None
    ) -> AuditEntry:
        """Add what :func:`authorize` returned or raised for a call of ``method``."""
        if not isinstance(decision, RpcError):
            return self.record(
                capability=decision.capability,
                resource=decision.resource,
                decision="allow",
                reason="granted",
                request_id=request_id,
            )
        return self.record(
            capability=str(decision.data.get("capability", method)),
            resource=str(decision.data.get("resource", ", ".join(wanted.models))),
            decision="deny",
            reason=str(decision.data.get("reason", decision.kind)),
            request_id=request_id,
        )

    def entries(self, limit: int | None = None, after: int | None = None) -> list[AuditEntry]:
        """Return decisions, oldest first.

        :param limit: maximum number: the first ones after ``after``, or the latest of all without it.
        :param after: only those with a greater ``seq``.
        """
        with self._lock:  # for a moment: the event loop records decisions
            kinds = [list(kind) for kind in self._kinds.values()]
        both = heapq.merge(*kinds, key=lambda entry: entry.seq)
        entries = [entry for entry in both if after is None or entry.seq > after]
        if limit is None:
            return entries
        return entries[:limit] if after is not None else entries[max(0, len(entries) - limit) :]
