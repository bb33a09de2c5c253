"""Dispatches lines in arrival order, on the event loop, without ever blocking it.

A batch is looked at in turns of half a millisecond (:func:`.turn`), so that other callbacks do not wait for all of it.

Registering a request, ``initialize`` and cancels are complete before the next line is looked at; the work of a long
call goes on elsewhere. If a call can only be accepted or refused after a look at the disk, a thread takes that look and
the next line waits for it, so that calls are accepted in order. This is the only place where exceptions become wire
errors. It does not know what the methods do.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from locara_protocol import jsonrpc
from locara_protocol import messages as m
from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.methods import METHODS, NOTIFICATIONS, Method
from locara_sidecar.daemon.wire.calls import Batch, Call, Calls
from locara_sidecar.daemon.wire.off_loop import off_loop, turn
from locara_sidecar.daemon.wire.outbox import Channel, Outbox

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

log = logging.getLogger("locara.server")

_CANCELLING = frozenset({"$/cancelRequest", "$/cancel_request", "notifications/cancelled"})

_WITHOUT_WORK = frozenset({"initialize", "ping", "shutdown"})


class Admission(Protocol):
    """Decides which requests the session accepts."""

    @property
    def state(self) -> str:
        """``open`` while notifications are handled."""
        ...

    def admit(self, method: Method | None) -> None:
        """Check that a request of this method (None if there is no such method) may run now.

        :raises RpcError: why it may not.
        """
        ...


class OffLoopHandler(NamedTuple):
    """A handler that needs something from a disk. ``first`` fetches it off the event loop and changes nothing; ``then``
    gets it and is like other handlers. ``given``: the argument for ``first``, evaluated when the call arrives.
    ``keeps``: what is fetched stays the same, so that only the first call needs to wait for it. ``about``: ``first``
    also gets the call's parameters.
    """

    first: Callable[..., Any]
    then: Callable[[Call, Any, Any], Any]
    given: Callable[[], tuple[Any, ...]] = tuple
    keeps: bool = False
    about: bool = False

    def fetching(self, params: Any) -> Callable[[], Any]:
        """Return ``first`` with its arguments for a call that has just arrived."""
        return partial(self.first, *self.given(), *((params,) if self.about else ()))


Handler = Callable[[Call, Any], Any] | OffLoopHandler
"""Takes a call and its parameters and returns the result, or None if the answer comes later."""


def _raise(error: Exception) -> NoReturn:
    raise error


class Server:
    """One session's dispatcher.

    :param handlers: by method.
    :param cancel: cancels the long call with a request id, if there is one.
    :param leave: called when the host sends ``exit``.
    :param start_aside: starts a coroutine function in a task; False if there is no event loop yet.
    :param is_full: whether too many calls are in flight to accept another; when that changes, call :meth:`go_on`.
    :param resume: called when the server is no longer :attr:`busy`.
    :param later: runs a function in its own callback of the event loop; False if there is no loop yet.
    :param stopping: whether no new work may start.
    :param refusal: the answer to what is not looked at any more then.
    :param broken: called with an exception after which no further line can be handled.
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
        later: Callable[[Callable[[], None]], bool] = lambda _: False,
        stopping: Callable[[], bool] = lambda: False,
        refusal: RpcError | None = None,
        broken: Callable[[Exception], None] = _raise,
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
        self._later = later
        self._stopping = stopping
        self._refusal = refusal or RpcError("RequestCancelled", "The sidecar is stopping.")
        self._broken = broken
        self._batch: Batch | None = None
        self._rest: deque[jsonrpc.Entry] = deque()  # of the batch
        self._at_disk = False
        self._kept: dict[str, Any] = {}
        self._failure: Exception | None = None

    @property
    def busy(self) -> bool:
        """Whether no further line may be looked at: a call waits for a disk, too many are in flight, or a batch is not
        finished. Meanwhile the loop is free for the calls accepted before.
        """
        return self._at_disk or self._batch is not None or self._is_full()

    def refuse_work(self, failure: Exception) -> None:
        """From now on answer every request with this failure, except those that open and end a session."""
        self._failure, self._failed_at = failure, failure.__traceback__

    def handle_line(self, line: bytes) -> None:
        """Handle one line of the wire, without its line ending.

        :raises Exception: whatever it is, no further line can be handled.
        """
        decoded = jsonrpc.decode_line(line)
        if not isinstance(decoded, jsonrpc.Batch):
            self._entry(decoded, None)
            return
        self._batch = Batch(self._outbox)
        self._rest.extend(decoded.entries)
        self._look_at_rest()

    def _look_at_rest(self) -> None:
        """Process entries of a batch until something has to be waited for, or this turn is over."""
        is_over = turn()
        while self._batch is not None and not (self._at_disk or self._is_full()):
            if self._stopping():
                self.end()
            elif not self._rest:
                self._finish_batch(self._batch)
            else:
                self._entry(self._rest.popleft(), self._batch)
                if is_over() and self._later(self.go_on):
                    return

    def _finish_batch(self, batch: Batch) -> None:
        self._batch = None
        batch.done()

    def end(self) -> None:
        """Refuse what has not been looked at of a batch, so that the whole is answered. From any thread."""
        batch = self._batch
        if batch is None:
            return
        while self._rest:
            with contextlib.suppress(IndexError):  # another thread has taken it
                entry = self._rest.popleft()
                if isinstance(entry, jsonrpc.Request):
                    self._refuse(entry.id, self._refusal, batch)
                elif isinstance(entry, jsonrpc.Invalid):
                    self._refuse(entry.id, entry.error, batch)
        if self._batch is batch:
            self._finish_batch(batch)

    def go_on(self) -> None:
        """Continue after a wait: with the rest of a batch, then the lines after it."""
        try:
            self._look_at_rest()
        except Exception as error:  # noqa: BLE001 -- whatever it is
            self._broken(error)
        if not self.busy:
            self._resume()

    def handle_long_line(self) -> None:
        """Handle a line that was over the limit and has been skipped."""
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
            self._open_channel(call, method, request.params)  # first, so that a refusal ends it, too
            if self._failure is not None and method.name not in _WITHOUT_WORK:
                raise self._failure.with_traceback(self._failed_at)  # its own would keep every call that it refuses
            if batch is not None:
                batch.require_room(method)
            if not jsonrpc.has_decoder(method.params) and self._start_aside(
                self._after_building, call, method, request.params
            ):
                self._at_disk = True
            else:
                self._at_disk = self._perform(call, method, request.params)

    def _perform(self, call: Call, method: Method, raw: bytes) -> bool:
        """Pass a call to its handler; return whether it waits for a disk first."""
        params = jsonrpc.decode_params(method.params, raw)
        handler = self._handlers[method.name]
        if not isinstance(handler, OffLoopHandler):
            _give(call, handler(call, params))
        elif method.name in self._kept:
            _give(call, handler.then(call, params, self._kept[method.name]))
        elif self._start_aside(self._after_disk, call, handler, params):
            return True
        else:  # nobody else is waiting yet
            _give(call, handler.then(call, params, handler.fetching(params)()))
        return False

    async def _after_building(self, call: Call, method: Method, raw: bytes) -> None:
        """Perform the first call with parameters of this type, after a thread has built what decodes them."""
        waits = False
        try:
            with _answering(call):
                build = partial(jsonrpc.build_decoder, method.params)
                await off_loop(build, abandon=True, refused=build)  # it computes, and waits for nothing
                waits = not call.answered and self._perform(self._started(call), method, raw)
        except Exception:  # there is no memory for an answer: later lines may have better luck
            self._free()
            raise
        if not waits:
            self._free()

    async def _after_disk(self, call: Call, handler: OffLoopHandler, params: Any) -> None:
        try:
            with _answering(call):
                found = await off_loop(handler.fetching(params), abandon=True)
                if handler.keeps:
                    self._kept[call.method] = found
                if not call.answered:
                    _give(call, handler.then(self._started(call), params, found))
        except Exception:  # there is no memory for an answer: later lines may have better luck
            self._free()
            raise
        self._free()

    def _started(self, call: Call) -> Call:
        """Return a call whose work may start now.

        :raises RpcError: the daemon is stopping.
        """
        if self._stopping():
            raise self._refusal
        return call

    def _free(self) -> None:
        self._at_disk = False
        if not self._later(self.go_on):
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
    """Answer a call with any error raised in the block: the only place that turns unexpected errors into answers."""
    try:
        yield
    except RpcError as error:
        call.fail(error)
    except Exception as error:  # noqa: BLE001 -- see above
        call.fail_unexpectedly(error)


def _give(call: Call, result: Any) -> None:
    if result is not None:
        call.succeed(result)
