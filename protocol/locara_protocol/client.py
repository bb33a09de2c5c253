"""A small Python client: spawns a sidecar and speaks the contract with it.

Owned here: the child process and the threads of one session. It is what the examples and the
conformance harness use, so it also checks what it is told: channel indexes without holes, an end
frame that counts right, nothing on a channel after the response.

Everything that goes wrong is one of::

    ClientError
    ├── RemoteError         the sidecar answered with an error
    ├── SidecarGone         the process ended with a call outstanding, or does not take input any more
    └── ProtocolViolation   the sidecar broke the contract
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import subprocess
import threading
from typing import IO, TYPE_CHECKING, Any, Self, cast

import msgspec

from locara_protocol import PROTOCOL_VERSION
from locara_protocol.errors import CODES
from locara_protocol.framing import LineSplitter, LineTooLong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Params = Mapping[str, Any] | msgspec.Struct

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_READ_BYTES = 64 * 1024
_KINDS = {code: kind for kind, code in CODES.items()}


class ClientError(Exception):
    """Base of all that a call can raise, but for TimeoutError."""


class RemoteError(ClientError):
    """The sidecar answered with an error; ``data`` as it was sent."""

    def __init__(self, code: int, message: str, data: dict[str, Any]) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data

    @property
    def kind(self) -> str:
        """The error's kind, from its data or else from its code."""
        return str(self.data.get("kind", _KINDS.get(self.code, "InternalError")))

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if it is sent again."""
        return self.data.get("retryable") is True


class SidecarGone(ClientError):
    """The process has ended or closed its output; ``status`` is its exit status if that is known."""

    def __init__(self, status: int | None) -> None:
        super().__init__("The sidecar is gone." if status is None else f"The sidecar ended with status {status}.")
        self.status = status


class ProtocolViolation(ClientError):
    """The sidecar sent something that the contract forbids."""


class Call:
    """One request under way; made by :meth:`Sidecar.start`."""

    def __init__(self, sidecar: Sidecar, request_id: int, channel: int | None) -> None:
        self.id = request_id
        self.channel = channel
        self._sidecar = sidecar
        self._messages: queue.SimpleQueue[dict[str, Any] | ClientError | None] = queue.SimpleQueue()
        self._count = 0
        self._ended = channel is None
        self._done = threading.Event()
        self._answer: dict[str, Any] | ClientError = SidecarGone(None)
        self._problem: ProtocolViolation | None = None

    def messages(self) -> Iterator[dict[str, Any]]:
        """The channel's messages as they come, until its end frame; nothing if the call does not stream.

        Messages wait in memory until they are taken; they can be taken once.

        :raises ProtocolViolation: for a hole in the indexes or a wrong count at the end.
        :raises SidecarGone: if the process ends before the end frame.
        """
        if self.channel is None:
            return
        while (message := self._messages.get()) is not None:
            if isinstance(message, ClientError):
                raise message
            yield message

    def cancel(self) -> None:
        """Asks for an end; the call is still answered, with RequestCancelled or with its result."""
        self._sidecar.notify("$/cancelRequest", {"id": self.id})

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Waits for the answer.

        :param timeout: seconds; None waits for ever.
        :raises RemoteError: if the answer is an error.
        :raises SidecarGone: if the process ended without an answer.
        :raises ProtocolViolation: if the answer or the channel broke the contract.
        :raises TimeoutError: if there is no answer in time; the call goes on.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"No answer to request {self.id} within {timeout} s.")
        if isinstance(self._answer, ClientError):
            raise self._answer
        if self._problem is not None:
            raise self._problem
        return self._answer

    def _frame(self, frame: dict[str, Any]) -> ProtocolViolation | None:
        """Takes one channel frame (reader thread)."""
        if self._ended:
            if self._problem is not None:
                return None  # said already
            self._problem = ProtocolViolation(f"A frame came after the end of channel {self.channel}.")
            return self._problem
        index = frame.get("index")
        if type(index) is not int or index != self._count:
            self._ended = True
            sentence = f"Channel {self.channel}: index {index!r} came where {self._count} was due."
            self._problem = ProtocolViolation(sentence)
            self._messages.put(self._problem)
            return self._problem
        if frame.get("end") is True:
            self._ended = True
            self._messages.put(None)
        else:
            self._count += 1
            self._messages.put(frame.get("message", {}))
        return None

    def _finish(self, answer: dict[str, Any] | ClientError) -> ProtocolViolation | None:
        """Takes the answer, which is the last thing that may happen to a call (reader thread)."""
        problem = answer if isinstance(answer, ProtocolViolation) else None
        if not self._ended:
            self._ended = True
            if isinstance(answer, SidecarGone):
                self._messages.put(answer)
            else:
                problem = ProtocolViolation(f"Channel {self.channel} had no end before its response.")
                self._problem = problem
                self._messages.put(problem)
        self._answer = answer
        self._done.set()
        return problem


class Sidecar:
    """A sidecar process and the session with it.

    :param command: what to run, for example ``["locara-sidecar", "serve"]``.
    :param env: the child's whole environment; None inherits ours.
    :param cwd: the child's working folder.
    :param stderr: where its log goes, as for :class:`subprocess.Popen`; None inherits ours.
    :param record: called with ``"send"`` or ``"receive"`` and each line without its ending; from several threads.
    :raises OSError: if the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stderr: int | IO[bytes] | None = None,
        record: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._ids = itertools.count(1)
        self._channels = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._retired: set[int] = set()
        self._gone = False
        self._unmatched: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.violations: list[ProtocolViolation] = []
        """Every broken rule seen so far, also those that no call raised."""
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=cwd, bufsize=0
        )
        self._reader = threading.Thread(target=self._read, name="sidecar-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def initialize(
        self, manifest: dict[str, Any] | None = None, grants: dict[str, str] | None = None, **extra: Any
    ) -> dict[str, Any]:
        """Opens the session. ``extra`` are further wire members, such as ``processId``; they win."""
        params: dict[str, Any] = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientInfo": {"name": "locara-protocol", "version": f"{PROTOCOL_VERSION}.0"},
        }
        given = {"manifest": manifest, "grants": grants}
        params |= {name: value for name, value in given.items() if value is not None}
        return self.call("initialize", params | extra)

    def call(self, method: str, params: Params | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises as :meth:`Call.result`."""
        return self.start(method, params).result(timeout)

    def start(self, method: str, params: Params | None = None, *, stream: bool = False) -> Call:
        """Sends a request.

        :param stream: adds a ``channel`` of its own to the params, so that the call has messages.
        :raises SidecarGone: if the process takes no input any more.
        """
        channel = next(self._channels) if stream else None
        call = Call(self, next(self._ids), channel)
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": call.id, "method": method}
        members: dict[str, Any] = {} if params is None else cast("dict[str, Any]", msgspec.to_builtins(params))
        if channel is not None:
            members = members | {"channel": channel}
        if members or params is not None:
            message["params"] = members
        with self._lock:
            if self._gone:
                raise SidecarGone(self.process.poll())
            self._calls[call.id] = call
        try:
            self.send_raw(msgspec.json.encode(message))
        except SidecarGone:
            with self._lock:
                self._calls.pop(call.id, None)
            raise
        return call

    def notify(self, method: str, params: Params | None = None) -> None:
        """Sends a notification; there is no answer.

        :raises SidecarGone: if the process takes no input any more.
        """
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        self.send_raw(msgspec.json.encode(message))

    def send_raw(self, line: bytes) -> None:
        """Sends any bytes as one line; LF is added. Answers to ids of no call are in :meth:`next_unmatched`.

        :raises SidecarGone: if the process takes no input any more.
        """
        stream = self.process.stdin
        assert stream is not None
        if self._record is not None:
            self._record("send", line)
        rest = memoryview(line + b"\n")
        with self._write_lock:
            try:
                while rest:
                    rest = rest[stream.write(rest) :]
            except (OSError, ValueError):
                raise SidecarGone(self.process.poll()) from None

    def next_unmatched(self, timeout: float | None = None) -> Any:
        """The next line, decoded, that no call and no channel of this client took: raw answers, batches.

        :raises TimeoutError: if there is none in time.
        """
        try:
            return self._unmatched.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"No further message within {timeout} s.") from None

    def close(self, timeout: float = 5.0) -> int:
        """Ends the session in good order, or kills the process after ``timeout`` seconds. May be repeated.

        :returns: the exit status; negative for a signal.
        """
        if self.process.poll() is None:
            with contextlib.suppress(ClientError, TimeoutError):
                self.call("shutdown", timeout=timeout)
            with contextlib.suppress(ClientError):
                self.notify("exit")
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(timeout)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()
        return status

    # --- the reader thread ---

    def _read(self) -> None:
        splitter = LineSplitter(MAX_ANSWER_BYTES)
        stream = self.process.stdout
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while data := stream.read(_READ_BYTES):
                for line in splitter.feed(data):
                    self._line(line)
        for line in splitter.finish():
            self._line(line)
        with self._lock:
            self._gone = True
            calls = list(self._calls.values())
            self._calls.clear()
        status = None
        if calls:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self.process.wait(1)
        for call in calls:
            call._finish(SidecarGone(status))  # pyright: ignore[reportPrivateUsage]

    def _line(self, line: bytes | LineTooLong) -> None:
        if isinstance(line, LineTooLong):
            self.violations.append(ProtocolViolation(f"A line was longer than {line.max_line_bytes} bytes."))
            return
        if self._record is not None:
            self._record("receive", line)
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self.violations.append(ProtocolViolation("A line on stdout was not JSON."))
            return
        if not isinstance(message, dict) or not self._dispatch(cast("dict[str, Any]", message)):
            self._unmatched.put(message)

    def _dispatch(self, message: dict[str, Any]) -> bool:
        """Gives a message to its call; False if it belongs to none."""
        params: Any = message.get("params")
        if "method" in message:
            channel = cast("dict[str, Any]", params).get("channel") if isinstance(params, dict) else None
            with self._lock:
                call = next((c for c in self._calls.values() if channel is not None and c.channel == channel), None)
            if call is None:
                if type(channel) is int and channel in self._retired:
                    self._note(ProtocolViolation(f"A frame came on channel {channel} after its response."))
                return False
            self._note(call._frame(cast("dict[str, Any]", params)))  # pyright: ignore[reportPrivateUsage]
            return True
        request_id: Any = message.get("id")
        with self._lock:
            call = self._calls.pop(request_id, None) if type(request_id) is int else None
            if call is not None and call.channel is not None:
                self._retired.add(call.channel)
        if call is None:
            return False
        self._note(call._finish(_answer(message)))  # pyright: ignore[reportPrivateUsage]
        return True

    def _note(self, problem: ProtocolViolation | None) -> None:
        if problem is not None:
            self.violations.append(problem)


def _answer(message: dict[str, Any]) -> dict[str, Any] | ClientError:
    """What a response object says."""
    error: Any = message.get("error")
    if isinstance(error, dict):
        members = cast("dict[str, Any]", error)
        data: Any = members.get("data")
        known = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        return RemoteError(int(members.get("code", 0)), str(members.get("message", "")), known)
    result: Any = message.get("result")
    if isinstance(result, dict):
        return cast("dict[str, Any]", result)
    return ProtocolViolation("A response held neither an error nor a result object.")
