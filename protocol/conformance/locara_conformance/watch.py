"""The watch over every message of every check: rules that must always hold, not only where a check looks.

One :class:`Watch` follows one process. It gets each line sent and received, and reports violations under the id of the
check that owns the clause. The checks themselves look only at answers, so such a violation is reported once and not by
everything that happens to run meanwhile.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from locara_conformance.cases import shorten
from locara_protocol.errors import CODES
from locara_protocol.methods import METHODS, NOTIFICATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_conformance.validator import Schemas

MAX_NOTIFICATION = 64 * 1024
MAX_RESPONSE = 8 * 1024 * 1024
_SAFE = 2**53 - 1
_CHANNEL = re.compile(r"__CHANNEL__:(0|[1-9][0-9]{0,9})")
_UNOPENED = {CODES["NotInitialized"], CODES["InvalidRequest"]}


@dataclass
class _Call:
    """A request that has not been answered; ``channel`` if it named a valid one that was free."""

    method: str
    channel: int | None


@dataclass
class _Stream:
    """A channel in use: how many messages arrived, and whether the end frame did."""

    call: _Call
    messages: int = 0
    ended: bool = False


class Watch:
    """Follows the messages of one process; not thread-safe, the peer holds its lock.

    :param report: called with the id of a watched check and what was wrong.
    """

    def __init__(self, schemas: Schemas, report: Callable[[str, str], None]) -> None:
        self._schemas = schemas
        self._report = report
        self._calls: dict[tuple[type, Any], list[_Call]] = {}
        self._streams: dict[int, list[_Stream]] = {}
        """By channel, the streams that may own it: a call may be sent before the current owner is answered."""
        self._before: dict[int, tuple[_Stream, Any]] = {}
        """By channel, the stream that had it last, and its job's id if the answer had it."""

    # --- what was sent ---

    def sent(self, line: bytes) -> None:
        """Remember the valid requests in a line."""
        try:
            message = json.loads(line)  # accepts a number beyond every float, which is valid JSON
        except (ValueError, RecursionError):
            return
        for one in cast("list[Any]", message) if isinstance(message, list) else [message]:
            if isinstance(one, dict):
                self._register(cast("dict[str, Any]", one))

    def _register(self, request: dict[str, Any]) -> None:
        if not is_id(request.get("id")) or ("method" not in request and ("result" in request or "error" in request)):
            return
        call = _Call(str(request.get("method")), None)
        method = METHODS.get(call.method)
        params = request.get("params")
        if isinstance(params, dict) and method and (method.notification or call.method == "jobs.attach"):
            channel = channel_of(cast("dict[str, Any]", params).get("channel"))
            if channel is not None:
                call.channel = channel
                self._streams.setdefault(channel, []).append(_Stream(call))
        self._calls.setdefault(_key(request["id"]), []).append(call)

    def settled(self) -> None:
        """Note that everything sent has been answered or refused without its id: no more answers are due."""
        self._calls.clear()
        self._streams.clear()
        self._before.clear()

    # --- what came ---

    def received(self, line: bytes) -> Any:
        """Judge a line, without its LF, and return the message; None if it is not one."""
        if b"\r" in line:
            self._report("framing.lf-only", "a CR was written")
            line = line.strip(b"\r")
        try:
            line.decode()
        except UnicodeDecodeError as error:
            self._report("framing.utf-8", f"a line is not UTF-8 at byte {error.start}")
            line = line.decode(errors="replace").encode()
        try:
            message = msgspec.json.decode(line)
        except (msgspec.MsgspecError, RecursionError):
            self._report("stdout.messages-only", f"a line is not JSON: {line[:120]!r}")
            return None
        if isinstance(message, dict):
            return self._one(cast("dict[str, Any]", message), len(line))
        entries = cast("list[Any]", message) if isinstance(message, list) else []
        if not entries or not all(isinstance(one, dict) and "method" not in one for one in entries):
            self._report("stdout.messages-only", f"neither a message nor the answer to a batch: {shorten(message)}")
            return None
        return [self._response(one) for one in entries]

    def ended(self, rest: bytes) -> None:
        """Note that the output has ended with ``rest`` after the last LF."""
        if rest:
            self._report("framing.lf-ended", f"the output ended in the middle of a line: {rest[:120]!r}")

    def too_long(self, size: int) -> None:
        """Note that a line is longer than any message may be, and has not ended."""
        self._report("framing.sizes", f"a line of {size} bytes that has not ended")

    def _one(self, message: dict[str, Any], size: int) -> dict[str, Any]:
        if message.get("jsonrpc") != "2.0":
            self._report("jsonrpc.shape", f'`jsonrpc` is not "2.0" in {shorten(message)}')
        if "method" in message:
            if size >= MAX_NOTIFICATION:
                self._report("framing.sizes", f"a notification of {size} bytes")
            self._notification(message)
            return message
        if size >= MAX_RESPONSE:
            self._report("framing.sizes", f"a response of {size} bytes")
        return self._response(message)

    def _response(self, message: dict[str, Any]) -> dict[str, Any]:
        if ("result" in message) == ("error" in message) or "id" not in message:
            self._report("jsonrpc.shape", f"not an id with either a result or an error: {shorten(message)}")
            return message
        if "error" in message:
            self._error(message["error"])
        elif not isinstance(message["result"], dict):
            self._report("jsonrpc.shape", f"a result that is not an object: {shorten(message)}")
        if message["id"] is None:
            if "result" in message:
                self._report("jsonrpc.shape", "a result for the id null")
            return message
        calls = self._calls.get(_key(message["id"]))
        if not calls:
            message = self._stray(message)
            calls = self._calls.get(_key(message["id"]))
            if not calls:
                return message
        again = len(calls) > 1 and code_of(message) == CODES["InvalidRequest"]  # the later one, with an id in flight
        call = calls.pop(-1 if again else 0)
        if "result" in message and call.method in METHODS:
            for sentence in self._schemas.problems(call.method, "result", message["result"])[:3]:
                self._report("schema.results", f"{call.method}: {sentence}")
        self._close(call, message)
        return message

    def _stray(self, message: dict[str, Any]) -> dict[str, Any]:
        """Handle an answer to an id that is not in flight; if one differs only in its type, count the answer as
        its own.
        """
        given = message["id"]
        alike = next((key for key, calls in self._calls.items() if calls and str(key[1]) == str(given)), None)
        if alike is None:
            self._report("jsonrpc.answered-once", f"an answer to {given!r}, which awaits none")
            return message
        self._report("jsonrpc.id-echo", f"the id {alike[1]!r} came back as {given!r}")
        return message | {"id": alike[1]}

    def _error(self, error: Any) -> None:
        found = self._schemas.error_problems(error)
        for sentence in found[:3]:
            self._report("schema.errors", f"error {sentence} in {shorten(error)}")
        if not found and CODES[error["data"]["kind"]] != error["code"]:
            self._report("errors.kind", f"kind {error['data']['kind']} has the code {error['code']}")
        if not found and error["data"]["kind"] == "InvalidParams" and "path" not in error["data"]:
            self._report("errors.path", f"an InvalidParams error without `data.path`: {shorten(error)}")

    def _notification(self, message: dict[str, Any]) -> None:
        name = message["method"]
        note = NOTIFICATIONS.get(name) if isinstance(name, str) else None
        if note is None or note.direction != "sidecar" or "id" in message:
            self._report("schema.notifications", f"not a notification of the contract: {shorten(message)}")
            return
        for sentence in self._schemas.problems(name, "params", message.get("params"))[:3]:
            self._report("schema.notifications", f"{name}: {sentence}")
        params = message.get("params")
        if isinstance(params, dict):
            self._frame(name, cast("dict[str, Any]", params))

    # --- channels ---

    def _frame(self, name: str, frame: dict[str, Any]) -> None:
        channel, index = frame.get("channel"), frame.get("index")
        if not isinstance(channel, int) or not isinstance(index, int):
            return
        streams = self._streams.get(channel)
        stream = next((one for one in streams if not one.ended), streams[-1]) if streams else None
        if not streams or stream is None or self._is_late(channel, stream, frame):
            self._report("channels.silent", f"a frame on channel {channel} that belongs to no running call")
            return
        due = METHODS[stream.call.method].notification if stream.call.method != "jobs.attach" else None
        if due not in (None, name):
            self._report("schema.notifications", f"{name} on a channel of {stream.call.method}")
        if stream.ended:
            self._report("channels.end-once", f"a frame on channel {channel} after its end frame")
        elif frame.get("end") is True:
            if index != stream.messages:
                self._report("channels.end-counts", f"an end frame of index {index} after {stream.messages} messages")
            stream.ended = True
            if stream.call.channel is None:  # a jobs.attach that was answered
                streams.remove(stream)
        else:
            if index != stream.messages:
                self._report("channels.gapless", f"index {index} came where {stream.messages} was expected")
            stream.messages = index + 1

    def _is_late(self, channel: int, stream: _Stream, frame: dict[str, Any]) -> bool:
        """Whether a frame belongs to the answered call that had the channel before: a message of its job, or its
        missing end frame. The next call may be sent, and so be known here, before such a frame is read."""
        before, job = self._before.get(channel, (None, None))
        if before is None:
            return False
        if frame.get("end") is True:
            late = not before.ended and frame["index"] == before.messages != stream.messages
            before.ended |= late
            return late
        told = _member(frame.get("message"), "jobId")
        return isinstance(told, str) and told == job and stream.call.method != "jobs.attach"

    def _close(self, call: _Call, message: dict[str, Any]) -> None:
        """Note that a call was answered: its channel has ended, or is another job's from now on."""
        if call.channel is None:
            return
        streams = self._streams[call.channel]
        stream = next(one for one in streams if one.call is call)
        sent = stream.messages or stream.ended
        if call.method == "jobs.attach":
            if "result" in message and not stream.ended:
                call.channel = None  # freed by the frame that ends it
                return
            if "error" in message and sent:
                self._report("channels.silent", "an attach that was refused sent a frame")
        elif not stream.ended and (sent or not _without_channel(message)):
            self._report("channels.end-first", f"{call.method} was answered before the end of channel {call.channel}")
        streams.remove(stream)
        self._before[call.channel] = (stream, _member(message.get("result"), "jobId"))


def code_of(message: dict[str, Any]) -> Any:
    """Return the code of an error response, else None."""
    return _member(message.get("error"), "code")


def _member(value: Any, name: str) -> Any:
    """Return a member of a value that may not be an object, else None."""
    return cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None


def _without_channel(message: dict[str, Any]) -> bool:
    """Whether a call was refused so early, or because of its channel, that it has none."""
    if code_of(message) in _UNOPENED:
        return True
    return code_of(message) == CODES["InvalidParams"] and _member(message["error"].get("data"), "path") == "$.channel"


def answers(message: Any, id: Any) -> bool:
    """Whether a message is a response with exactly that id."""
    if not isinstance(message, dict) or "method" in message or "id" not in message:
        return False
    given = cast("dict[str, Any]", message)["id"]
    return type(given) is type(id) and given == id


def is_id(value: Any) -> bool:
    """Whether a request with this id must be answered with it."""
    if isinstance(value, str):
        return len(value.encode(errors="replace")) <= 256
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _SAFE


def channel_of(value: Any) -> int | None:
    """Return a channel's number from either spelling, or None."""
    if isinstance(value, str) and (spelt := _CHANNEL.fullmatch(value)):
        value = int(spelt[1])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32 else None


def _key(value: Any) -> tuple[type, Any]:
    return (value.__class__, value if isinstance(value, int | str) else repr(value))
