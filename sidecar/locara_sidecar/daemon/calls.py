"""One request on its way to its answer, alone or in a batch; each is answered exactly once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError

if TYPE_CHECKING:
    from locara_sidecar.daemon.outbox import Channel, Outbox

log = logging.getLogger("locara.calls")


class Batch:
    """Collects the answers of a batch and sends them as one array when the last is in.

    :param outbox: where the array goes.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lines: list[bytes] = []
        self._open = 1  # the batch itself, until all its entries have been looked at

    def expect(self) -> None:
        """One more entry will be answered."""
        self._open += 1

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self.done()

    def done(self) -> None:
        """One entry less to wait for; called once more when all entries have been looked at."""
        self._open -= 1
        if self._open == 0 and self._lines:
            self._outbox.answer(jsonrpc.encode_batch(self._lines))


class Calls:
    """The requests in flight, by id (1 and "1" are two ids)."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._in_flight: dict[int | str, Call] = {}

    def open(self, request_id: int | str, method: str, batch: Batch | None) -> Call:
        call = Call(self, request_id, method, batch)
        self._in_flight[request_id] = call
        return call

    def get(self, request_id: int | str) -> Call | None:
        return self._in_flight.get(request_id)

    def channel_in_use(self, channel_id: int) -> bool:
        return any(call.channel is not None and call.channel.id == channel_id for call in self._in_flight.values())

    def closed(self, call: Call) -> None:
        del self._in_flight[call.id]

    def others(self, call: Call) -> bool:
        """Whether any other call is in flight."""
        return any(other is not call for other in self._in_flight.values())

    def count(self) -> int:
        return len(self._in_flight)


class Call:
    """A request that has been accepted for an answer. ``channel`` is set once it has named a valid, free one."""

    def __init__(self, calls: Calls, request_id: int | str, method: str, batch: Batch | None) -> None:
        self._calls = calls
        self._batch = batch
        self._answered = False
        self.id = request_id
        self.method = method
        self.channel: Channel | None = None

    def succeed(self, result: Any) -> None:
        """Answer with a result (a message struct, or JSON already encoded as ``msgspec.Raw``)."""
        self._answer(jsonrpc.encode_result(self.id, result))

    def fail(self, error: RpcError) -> None:
        """Answer with an error."""
        log.info("request failed", extra={"fields": {"method": self.method, "id": self.id, "kind": error.kind}})
        self._answer(jsonrpc.encode_error(self.id, error))

    def fail_unexpectedly(self, error: Exception) -> None:
        """Answer with a fixed text; what happened goes to the log."""
        fields = {"method": self.method, "id": self.id}
        log.error("a request failed unexpectedly", exc_info=error, extra={"fields": fields})
        self._answer(jsonrpc.encode_error(self.id, internal_error()))

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
    """The one text for what nobody foresaw; details stay in the log."""
    return RpcError("InternalError", "Something went wrong inside the sidecar; its log on stderr says where.")
