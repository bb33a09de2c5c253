"""One request on its way to its answer, alone or in a batch; each is answered exactly once."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError
from locara_protocol.methods import METHODS
from locara_sidecar.machine import own_files
from locara_sidecar.machine.processes import shortage

if TYPE_CHECKING:
    from collections.abc import Collection

    from locara_protocol.methods import Method
    from locara_sidecar.daemon.wire.outbox import Channel, Outbox

log = logging.getLogger("locara.calls")

MAX_HELD = 8 << 20
"""Maximum bytes of a batch's answers, as for one answer; beyond that no more of its requests are accepted."""


class Batch:
    """Collects the answers of a batch and sends them as one array after the last.

    :param outbox: where the array goes.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lines: list[bytes] = []
        self._bytes = 0
        self._open = 1  # the batch itself, until all its entries have been looked at

    def expect(self) -> None:
        """Count one more entry that will be answered."""
        self._open += 1

    def add(self, line: bytes) -> None:
        """Add an answer."""
        self._lines.append(line)
        self._bytes += len(line)
        self.done()

    def require_room(self, method: Method) -> None:
        """Check that a request of this method may be part of the batch, after what has been answered so far.

        :raises RpcError: InvalidRequest.
        """
        if not method.in_batch:
            raise RpcError("InvalidRequest", f"{method.name} cannot be part of a batch.")
        if self._bytes >= MAX_HELD:  # all are held until the last entry has been answered, which may take hours
            message = f"The answers to this batch already take {MAX_HELD >> 20} MiB; send the rest separately."
            raise RpcError("InvalidRequest", message)

    def done(self) -> None:
        """Count one entry as done; called once more when all entries have been looked at."""
        self._open -= 1
        if self._open == 0 and self._lines:
            self._outbox.answer(jsonrpc.encode_batch(self._lines))


class Calls:
    """The requests in flight, by id (1 and "1" are two ids)."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._in_flight: dict[int | str, Call] = {}

    def open(self, request_id: int | str, method: str, batch: Batch | None) -> Call:
        """Add a request; it is in flight until it is answered."""
        call = Call(self, request_id, method, batch)
        self._in_flight[request_id] = call
        return call

    def get(self, request_id: int | str) -> Call | None:
        """Return the request in flight with that id, if there is one."""
        return self._in_flight.get(request_id)

    def channel_in_use(self, channel_id: int) -> bool:
        """Whether a request in flight reports its progress on that channel."""
        return any(call.channel is not None and call.channel.id == channel_id for call in self._in_flight.values())

    def closed(self, call: Call) -> None:
        """Remove a request that has been answered."""
        del self._in_flight[call.id]

    def others(self, call: Call) -> bool:
        """Whether any other call is in flight."""
        return any(other is not call for other in self._in_flight.values())

    def count(self) -> int:
        """Return how many are in flight."""
        return len(self._in_flight)

    def fail_all(self, error: Exception) -> None:
        """Answer everything in flight, because the process is ending and nothing else will."""
        for call in list(self._in_flight.values()):
            try:
                call.fail(error if isinstance(error, RpcError) else unexpected(call.method, error))
            except Exception:  # noqa: BLE001 -- no memory for this one, but perhaps for the next
                continue


class Call:
    """A request that will be answered. ``channel`` is set once it has named a valid, free one."""

    def __init__(self, calls: Calls, request_id: int | str, method: str, batch: Batch | None) -> None:
        self._calls = calls
        self._batch = batch
        self._answered = False
        self.id = request_id
        self.method = method
        self.channel: Channel | None = None

    @property
    def answered(self) -> bool:
        """Whether it has been answered, if only because the process is ending."""
        return self._answered

    def succeed(self, result: Any) -> None:
        """Answer with a result (a message struct, or JSON already encoded as ``msgspec.Raw``)."""
        self._answer(jsonrpc.encode_result(self.id, result))

    def fail(self, error: RpcError) -> None:
        """Answer with an error."""
        with contextlib.suppress(MemoryError):  # the answer is more important
            log.info("request failed", extra={"fields": {"method": self.method, "id": self.id, "kind": error.kind}})
        self._answer(jsonrpc.encode_error(self.id, error))

    def fail_unexpectedly(self, error: Exception) -> None:
        """Answer with a fixed text; the details go to the log."""
        with contextlib.suppress(MemoryError):
            fields = {"method": self.method, "id": self.id}
            log.error("a request failed unexpectedly", exc_info=error, extra={"fields": fields})
        self._answer(jsonrpc.encode_error(self.id, unexpected(self.method, error)))

    def _answer(self, line: bytes) -> None:
        if self._answered:
            raise RuntimeError(f"request {self.id} was answered twice")
        self._answered = True
        self._calls.closed(self)
        outbox = self._calls.outbox
        if self._batch is None:
            if self.channel is None:
                outbox.answer(line)
            else:
                outbox.close_channel(self.channel, line)
        else:
            if self.channel is not None:
                outbox.close_channel(self.channel, None)
            self._batch.add(line)


def internal_error() -> RpcError:
    """Return the error for unexpected failures; details stay in the log."""
    return RpcError("InternalError", "Something went wrong inside the sidecar; its log on stderr says where.")


def _files_gone(text: str, kinds: Collection[str]) -> RpcError:
    """Return the error, of those that the method may have, that a host can best act on."""
    data: dict[str, Any] = {"reason": "updated"}
    if "StorageError" in kinds:
        return RpcError("StorageError", text, errno=errno.errorcode[errno.ENOENT], **data)
    return RpcError("EngineUnavailable" if "EngineUnavailable" in kinds else "InternalError", text, **data)


def unexpected(method: str, error: Exception) -> RpcError:
    """Return the answer to a call of ``method`` that failed with an unexpected ``error``."""
    known = METHODS.get(method)
    kinds = () if known is None else known.errors
    lack = shortage.explained(error, kinds)
    if lack is not None and lack.kind == "StorageError":
        return lack
    if own_files.is_of_ours(error):
        text = "The sidecar's own files are gone or of another version, perhaps by an update. Restart the sidecar."
        return _files_gone(text, kinds)
    return internal_error() if lack is None else lack
