"""From a line to what happens: dispatch in arrival order, on the event loop, without ever blocking it.

Registering a request, ``initialize`` and cancels are complete before the next line is looked at; the work
of a long call goes on elsewhere. Where a call cannot be accepted or refused without a look at the disk, that look is
taken in a thread and the next line waits for it, so that calls are accepted in their order. This is the one place
where exceptions become wire errors. What the methods do is not known here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from locara_protocol import jsonrpc
from locara_protocol import messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.methods import METHODS, NOTIFICATIONS, Method
from locara_sidecar.daemon.wire.calls import Batch, Call, Calls
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.daemon.wire.outbox import Channel, Outbox

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

log = logging.getLogger("locara.server")

_CANCELLING = frozenset({"$/cancelRequest", "$/cancel_request", "notifications/cancelled"})


class Admission(Protocol):
    """Which requests the session takes."""

    @property
    def state(self) -> str:
        """``open`` while notifications are heeded."""
        ...

    def admit(self, method: Method | None) -> None:
        """:raises RpcError: why a request of this method, None for one that there is not, may not run now."""
        ...


class OffLoopHandler(NamedTuple):
    """How a call is handled that needs something from a disk: ``first`` gets it, away from the event loop, and changes
    nothing; ``then`` is given it, and is as other handlers. ``given``: what ``first`` is called with, as it is when the
    call comes."""

    first: Callable[..., Any]
    then: Callable[[Call, Any, Any], Any]
    given: Callable[[], tuple[Any, ...]] = tuple


Handler = Callable[[Call, Any], Any] | OffLoopHandler
"""Takes a call and its parameters and returns the result, or None if the answer comes later."""


class Server:
    """One session's dispatcher.

    :param handlers: by method.
    :param cancel: cancels the long call of a request's id, if there is one.
    :param leave: the host said ``exit``.
    :param start_aside: starts a coroutine function in a task; False where there is no event loop yet.
    :param is_full: whether so many calls are in flight that no further one may be accepted; when that has changed,
        :meth:`go_on` is to be called.
    :param resume: called when the server is no longer :attr:`busy`.
    """

    def __init__(
        self,
        outbox: Outbox,
        calls: Calls,
        session: Admission,
        handlers: Mapping[str, Handler],
        cancel: Callable[[int | str], None],
        leave: Callable[[], None],
        max_line_bytes: int,
        start_aside: Callable[..., bool] = lambda *_: False,
        is_full: Callable[[], bool] = lambda: False,
        resume: Callable[[], None] = lambda: None,
    ) -> None:
        if handlers.keys() != METHODS.keys():
            raise RuntimeError(f"methods and handlers differ: {handlers.keys() ^ METHODS.keys()}")
        self._outbox = outbox
        self._calls = calls
        self._session = session
        self._handlers = handlers
        self._cancel = cancel
        self._leave = leave
        self._max_line_bytes = max_line_bytes
        self._start_aside = start_aside
        self._is_full = is_full
        self._resume = resume
        self._rest: Iterator[None] | None = None
        self._at_disk = False

    @property
    def busy(self) -> bool:
        """While a call waits for what it needs from a disk, or too many are in flight, or a batch is not at its end, no
        other line may be looked at; the loop has its hands free for the calls that were accepted before."""
        return self._at_disk or self._rest is not None or self._is_full()

    def handle_line(self, line: bytes) -> None:
        """One line of the wire, without its line ending. Never raises."""
        decoded = jsonrpc.decode_line(line)
        if not isinstance(decoded, jsonrpc.Batch):
            self._entry(decoded, None)
            return
        self._rest = self._entries(decoded.entries)
        self._look_at_rest()

    def _entries(self, entries: Sequence[jsonrpc.Entry]) -> Iterator[None]:
        batch = Batch(self._outbox)
        for entry in entries:
            self._entry(entry, batch)
            yield
        batch.done()

    def _look_at_rest(self) -> None:
        """Look at the rest of a batch, as far as nothing has to be waited for."""
        while self._rest is not None and not (self._at_disk or self._is_full()):
            if next(self._rest, self) is self:
                self._rest = None

    def go_on(self) -> None:
        """What was waited for has come: the rest of a batch, then the lines behind it."""
        try:
            self._look_at_rest()
        finally:
            if not self.busy:
                self._resume()

    def handle_long_line(self) -> None:
        """A line that was over the limit and has been skipped."""
        self._entry(jsonrpc.line_too_long(self._max_line_bytes), None)

    def _entry(self, entry: jsonrpc.Entry, batch: Batch | None) -> None:
        if isinstance(entry, jsonrpc.Request):
            self._request(entry, batch)
        elif isinstance(entry, jsonrpc.Notification):
            self._notification(entry, batch)
        elif isinstance(entry, jsonrpc.Invalid):
            self._refuse(entry.id, entry.error, batch)
        else:
            log.warning("a response to nothing was ignored")

    def _refuse(self, request_id: int | str | None, error: RpcError, batch: Batch | None) -> None:
        """Answer something that never became a call."""
        log.info("message refused", extra={"fields": {"kind": error.kind}})
        line = jsonrpc.encode_error(request_id, error)
        if batch is None:
            self._outbox.answer(line)
        else:
            batch.expect()
            batch.add(line)

    def _request(self, request: jsonrpc.Request, batch: Batch | None) -> None:
        if self._calls.get(request.id) is not None:
            self._refuse(request.id, RpcError("InvalidRequest", "A request with this id is still running."), batch)
            return
        if batch is not None:
            batch.expect()
        call = self._calls.open(request.id, request.method, batch)
        with _answering(call):
            method = METHODS.get(request.method)
            self._session.admit(method)
            if method is None:
                raise RpcError("MethodNotFound", "There is no method with this name.")
            if batch is not None:
                batch.require_room(method)
            self._open_channel(call, method, request.params)
            params = jsonrpc.decode_params(method.params, request.params)
            handler = self._handlers[method.name]
            if not isinstance(handler, OffLoopHandler):
                _give(call, handler(call, params))
            elif self._start_aside(self._after_disk, call, handler, params):
                self._at_disk = True
            else:  # there is nobody yet who would have to wait
                _give(call, handler.then(call, params, handler.first(*handler.given())))

    async def _after_disk(self, call: Call, handler: OffLoopHandler, params: Any) -> None:
        try:
            with _answering(call):
                found = await off_loop(handler.first, *handler.given(), abandon=True)
                if not call.answered:
                    _give(call, handler.then(call, params, found))
        except Exception:  # there is no memory for an answer: the lines behind it may have better luck
            self._free()
            raise
        self._free()

    def _free(self) -> None:
        self._at_disk = False
        self.go_on()

    def _open_channel(self, call: Call, method: Method, params: bytes) -> None:
        if method.notification is None:
            return
        channel_id = jsonrpc.channel_of(params)
        if channel_id is None:
            return
        if self._calls.channel_in_use(channel_id):
            raise invalid_params("$.channel", "A running call uses this channel; use another number.")
        call.channel = Channel(channel_id, method.notification)

    def _notification(self, note: jsonrpc.Notification, batch: Batch | None) -> None:
        if note.method == "exit":
            if batch is not None:
                self._refuse(None, RpcError("InvalidRequest", "exit cannot be part of a batch."), batch)
                return
            self._leave()
        elif self._session.state != "open":
            log.debug("a notification was dropped", extra={"fields": {"state": self._session.state}})
        elif note.method in _CANCELLING:
            self._cancel_request(note)
        elif note.method not in NOTIFICATIONS:
            log.debug("an unknown notification was ignored")

    def _cancel_request(self, note: jsonrpc.Notification) -> None:
        try:
            type_ = m.CancelledParams if note.method == "notifications/cancelled" else m.CancelRequestParams
            params = jsonrpc.decode_params(type_, note.params)
        except RpcError as error:
            log.warning("a cancel was ignored", extra={"fields": {"kind": error.kind, "path": error.data.get("path")}})
            return
        self._cancel(params.id if isinstance(params, m.CancelRequestParams) else params.request_id)


@contextlib.contextmanager
def _answering(call: Call) -> Generator[None]:
    """Answer a call with what goes wrong with it: the one place that turns the unforeseen into an answer."""
    try:
        yield
    except RpcError as error:
        call.fail(error)
    except Exception as error:  # noqa: BLE001 -- see above
        call.fail_unexpectedly(error)


def _give(call: Call, result: Any) -> None:
    if result is not None:
        call.succeed(result)
