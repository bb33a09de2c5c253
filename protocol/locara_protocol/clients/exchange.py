"""The host's half of the contract, without I/O: what to send for a call, and which call an incoming line belongs to.

This module tracks the requests in flight, the channels and their indexes, and detects violations of the contract.
Both clients pass it the lines that they read, and get callbacks through :class:`Channel` and :class:`Pending`.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, cast

import msgspec

from locara_protocol import PROTOCOL_VERSION
from locara_protocol.client_errors import ClientError, ProtocolViolationError, RemoteError, SidecarGoneError
from locara_protocol.framing import LineTooLong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Params = Mapping[str, Any] | msgspec.Struct

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Longer lines are skipped; the contract's own limit is 8 MiB, except for the answer to a batch."""


class Channel:
    """The incoming messages of one channel; :meth:`deliver` decides what to do with them."""

    def __init__(self, channel: int | None) -> None:
        self.channel = channel
        self.ended = channel is None
        self.problem: ProtocolViolationError | None = None
        self._count = 0

    def deliver(self, item: dict[str, Any] | ClientError | None) -> None:
        """Take a message, None for the end, or the error that ends the channel."""
        raise NotImplementedError

    def frame(self, frame: dict[str, Any]) -> ProtocolViolationError | None:
        """Take one channel frame; return what is wrong with it, the first time only."""
        if self.ended:
            if self.problem is not None:
                return None  # already reported
            self.problem = ProtocolViolationError(f"A frame came after the end of channel {self.channel}.")
            return self.problem
        index = frame.get("index")
        if type(index) is not int or index != self._count:
            self.ended = True
            self.problem = ProtocolViolationError(
                f"Channel {self.channel}: index {index!r} came where {self._count} was expected."
            )
            self.deliver(self.problem)
            return self.problem
        if frame.get("end") is True:
            self.ended = True
            self.deliver(None)
        else:
            self._count += 1
            self.deliver(frame.get("message", {}))
        return None

    def lost(self, problem: ClientError) -> bool:
        """Mark the channel as lost: no more frames will come. Return whether its end frame is missing."""
        if self.ended:
            return False
        self.ended = True
        self.deliver(problem)
        return True


class Pending(Channel):
    """A request in flight, with its channel if it has one."""

    id: int

    def __init__(self, request_id: int, channel: int | None) -> None:
        super().__init__(channel)
        self.id = request_id
        self._answer: dict[str, Any] | ClientError = SidecarGoneError(None)

    def answered(self) -> None:
        """Called once :meth:`outcome` is available."""
        raise NotImplementedError

    def finish(self, answer: dict[str, Any] | ClientError) -> ProtocolViolationError | None:
        """Take the answer, which must be the last event of a call."""
        problem = answer if isinstance(answer, ProtocolViolationError) else None
        if isinstance(answer, SidecarGoneError):
            self.lost(answer)
        elif self.lost(missing := ProtocolViolationError(f"Channel {self.channel} had no end before its response.")):
            problem = self.problem = missing
        self._answer = answer
        self.answered()
        return problem

    def outcome(self) -> dict[str, Any]:
        """Return the result, or raise the error that the call ended with."""
        if isinstance(self._answer, ClientError):
            raise self._answer
        if self.problem is not None:
            raise self.problem
        return self._answer


class Exchange:
    """The requests and channels of one session.

    :param unmatched: receives each message that belongs to no call or channel.
    :param lock: guards the state shared between threads; not needed within one event loop.
    """

    def __init__(
        self,
        unmatched: Callable[[Any], None],
        lock: contextlib.AbstractContextManager[Any] | None = None,
    ) -> None:
        self.violations: list[ProtocolViolationError] = []
        self.gone = False
        self.max_line: int | None = None
        """The longest line that the sidecar accepts, in bytes, if known; it refuses longer ones without their id."""
        self._unmatched = unmatched
        self._lock = contextlib.nullcontext() if lock is None else lock
        self._ids, self._channels = itertools.count(1), itertools.count(1)
        self._calls: dict[int, Pending] = {}
        self._attached: dict[int, Channel] = {}
        self._retired: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether calls are in flight."""
        return bool(self._calls)

    def opened(self, result: dict[str, Any]) -> dict[str, Any]:
        """Take the result of ``initialize`` and return it.

        :raises ProtocolViolationError: if it names a version that this client does not speak.
        """
        most: Any = opened(result)
        for name in ("capabilities", "limits", "maxLineBytes"):
            most = cast("dict[str, Any]", most).get(name) if isinstance(most, dict) else None
        self.max_line = most if type(most) is int and most > 0 else None
        return result

    def next_id(self) -> int:
        """Return an id that no request has used."""
        return next(self._ids)

    def next_channel(self) -> int:
        """Return a channel that no call has used."""
        return next(self._channels)

    def request(self, call: Pending, method: str, params: Params | None) -> bytes:
        """Register a call and return the line to send.

        :raises SidecarGoneError: if the session has ended.
        :raises ClientError: if the line is longer than the sidecar takes: the call would never be answered.
        """
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": call.id, "method": method}
        members: dict[str, Any] = {} if params is None else cast("dict[str, Any]", msgspec.to_builtins(params))
        if call.channel is not None:
            members = members | {"channel": call.channel}
        if members or params is not None:
            message["params"] = members
        line = msgspec.json.encode(message)
        if self.max_line is not None and len(line) > self.max_line:
            raise ClientError(
                f"{method} cannot be sent: its line takes {len(line)} bytes, the sidecar takes {self.max_line}."
            )
        with self._lock:
            if self.gone:
                raise SidecarGoneError(None)
            self._calls[call.id] = call
        return line

    def unsent(self, call: Pending) -> bool:
        """Withdraw a call whose line could not be sent; return whether it was still in flight."""
        with self._lock:
            return self._calls.pop(call.id, None) is not None

    def attach(self, stream: Channel) -> None:
        """Route a channel's frames to ``stream``, in addition to those of calls."""
        with self._lock:
            self._attached[cast("int", stream.channel)] = stream

    def detach(self, stream: Channel) -> None:
        """Undo :meth:`attach`."""
        with self._lock:
            self._attached.pop(cast("int", stream.channel), None)

    def end(self) -> tuple[list[Pending], list[Channel]]:
        """End the session; return the calls and channels that must still be notified."""
        with self._lock:
            self.gone = True
            calls, streams = list(self._calls.values()), list(self._attached.values())
            self._calls.clear()
            self._attached.clear()
        return calls, streams

    def line(self, line: bytes | LineTooLong) -> None:
        """Take one incoming line."""
        if isinstance(line, LineTooLong):
            self._note(ProtocolViolationError(f"A line was longer than {line.max_line_bytes} bytes."))
            return
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._note(ProtocolViolationError("A line on stdout was not JSON."))
            return
        if not isinstance(message, dict) or not self._dispatch(cast("dict[str, Any]", message)):
            self._unmatched(message)

    def _dispatch(self, message: dict[str, Any]) -> bool:
        """Pass a message to its call; False if it belongs to none."""
        if "method" in message:
            return self._frame(message.get("params"))
        request_id: Any = message.get("id")
        with self._lock:
            call = self._calls.pop(request_id, None) if type(request_id) is int else None
            if call is not None and call.channel is not None:
                self._retired.add(call.channel)
        if call is None:
            return False
        self._note(call.finish(answer_of(message)))
        return True

    def _frame(self, params: Any) -> bool:
        channel: Any = cast("dict[str, Any]", params).get("channel") if isinstance(params, dict) else None
        channel = channel if type(channel) is int else -1
        with self._lock:
            open_calls = (call for call in self._calls.values() if call.channel == channel)
            stream: Channel | None = next(open_calls, self._attached.get(channel))
        if stream is None:
            if channel in self._retired:
                self._note(ProtocolViolationError(f"A frame came on channel {channel} after its response."))
            return False
        self._note(stream.frame(cast("dict[str, Any]", params)))
        if stream.ended and not isinstance(stream, Pending):
            with self._lock:
                self._attached.pop(channel, None)
                self._retired.add(channel)
        return True

    def _note(self, problem: ProtocolViolationError | None) -> None:
        if problem is not None:
            self.violations.append(problem)


def answer_of(message: dict[str, Any]) -> dict[str, Any] | ClientError:
    """Return the result or the error in a response object."""
    error: Any = message.get("error")
    if isinstance(error, dict):
        members = cast("dict[str, Any]", error)
        data: Any = members.get("data")
        known = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        code: Any = members.get("code")
        return RemoteError(code if type(code) is int else 0, str(members.get("message", "")), known)
    result: Any = message.get("result")
    if isinstance(result, dict):
        return cast("dict[str, Any]", result)
    return ProtocolViolationError("A response held neither an error nor a result object.")


def notification(method: str, params: Params | None) -> bytes:
    """Encode a notification as a line."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return msgspec.json.encode(message)


def opening(manifest: dict[str, Any] | None, grants: dict[str, str] | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Build the params of ``initialize``; ``extra`` are further wire members, which take precedence."""
    given = {"manifest": manifest, "grants": grants}
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "clientInfo": {"name": "locara-protocol", "version": f"{PROTOCOL_VERSION}.0"},
        **{name: value for name, value in given.items() if value is not None},
        **extra,
    }


def opened(result: dict[str, Any]) -> dict[str, Any]:
    """Check the result of ``initialize`` and return it.

    :raises ProtocolViolationError: if it names a version that this client does not speak.
    """
    version = result.get("protocolVersion", PROTOCOL_VERSION)
    if type(version) is not int or not 1 <= version <= PROTOCOL_VERSION:
        raise ProtocolViolationError(
            f"The sidecar speaks version {version!r} of the contract, which was not offered ({PROTOCOL_VERSION} was)."
        )
    return result
