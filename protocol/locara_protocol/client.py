"""A small threaded Python client: spawns a sidecar and speaks the contract with it.

This module owns the child process and the threads of one session. It also checks what it receives: channel indexes
without gaps, a correct count in the end frame, nothing on a channel after the response. Failures are
:class:`ClientError` (:mod:`locara_protocol.client_errors`). The event-loop version is
:mod:`locara_protocol.async_client`.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import subprocess
import threading
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from locara_protocol.client_errors import ClientError, ProtocolViolationError, RemoteError, SidecarGoneError
from locara_protocol.clients.exchange import MAX_ANSWER_BYTES, Channel, Exchange, Pending, notification, opening
from locara_protocol.clients.typed_calls import TypedCalls
from locara_protocol.framing import LineSplitter
from locara_protocol.handing import HandingSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from locara_protocol.clients.exchange import Params

__all__ = ["Call", "ClientError", "ProtocolViolationError", "RemoteError", "Sidecar", "SidecarGoneError", "Stream"]

_READ_BYTES = 64 * 1024


class Stream(Channel):
    """The messages of one channel; created by :meth:`Sidecar.attach`, or as part of a :class:`Call`."""

    def __init__(self, channel: int | None) -> None:
        super().__init__(channel)
        self._messages: queue.SimpleQueue[dict[str, Any] | ClientError | None] = queue.SimpleQueue()

    def deliver(self, item: dict[str, Any] | ClientError | None) -> None:
        """Queue an item for :meth:`messages`."""
        self._messages.put(item)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the channel's messages as they arrive, up to its end frame; nothing if the call does not stream.

        Messages are kept in memory until they are consumed, and can be consumed once.

        :raises ProtocolViolationError: for a gap in the indexes or a wrong count at the end.
        :raises SidecarGoneError: if the process ends before the end frame.
        """
        if self.channel is None:
            return
        while (message := self._messages.get()) is not None:
            if isinstance(message, ClientError):
                raise message
            yield message


class Call(Pending, Stream):
    """One request in flight; created by :meth:`Sidecar.start`."""

    def __init__(self, sidecar: Sidecar, request_id: int, channel: int | None) -> None:
        super().__init__(request_id, channel)
        self._sidecar = sidecar
        self._done = threading.Event()

    def answered(self) -> None:
        """Wake the thread that waits for the answer."""
        self._done.set()

    def cancel(self) -> None:
        """Ask the sidecar to cancel; the call is still answered, with RequestCancelled or with its result."""
        self._sidecar.notify("$/cancelRequest", {"id": self.id})

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the answer.

        :param timeout: seconds; None waits forever.
        :raises RemoteError: if the answer is an error.
        :raises SidecarGoneError: if the process ended without an answer.
        :raises ProtocolViolationError: if the answer or the channel broke the contract.
        :raises TimeoutError: if there is no answer in time; the call goes on.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"No answer to request {self.id} within {timeout} s.")
        return self.outcome()


class Sidecar(TypedCalls):
    """A sidecar process and its session.

    :param command: what to run, for example ``["locara-sidecar", "serve"]``.
    :param env: the child's whole environment; None inherits ours.
    :param cwd: the child's working directory.
    :param stderr: where its log goes, as for :class:`subprocess.Popen`; None inherits ours. If it is a pipe, read it.
    :param own_group: start it in its own process group, where Ctrl-C at our terminal does not reach it.
    :param hands_files: whether :meth:`pick_open_file` is used; adds ``--descriptors`` to the command.
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
        own_group: bool = False,
        hands_files: bool = False,
        record: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._record = record
        self._handing = HandingSocket() if hands_files else None
        socket = () if self._handing is None else self._handing.inherited
        flags = [] if self._handing is None else self._handing.flags
        self._unmatched: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._exchange = Exchange(self._unmatched.put, threading.Lock())
        self.violations = self._exchange.violations
        """Every contract violation seen so far, including those that no call raised."""
        self._outgoing: queue.SimpleQueue[tuple[bytes, Call | None] | None] = queue.SimpleQueue()
        self._deaf = False
        self.process = subprocess.Popen(
            [*command, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=socket,
            bufsize=0,
            process_group=0 if own_group else None,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if own_group else 0,  # Windows
        )
        if self._handing is not None:
            self._handing.spawned()
        self._reader = threading.Thread(target=self._read, name="sidecar-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name="sidecar-writer", daemon=True)
        self._reader.start()
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def initialize(
        self, manifest: dict[str, Any] | None = None, grants: dict[str, str] | None = None, **extra: Any
    ) -> dict[str, Any]:
        """Open the session. ``extra`` are further wire members, such as ``processId``; they take precedence.

        :raises ProtocolViolationError: if the sidecar answers with a contract version that was not offered.
        """
        return self._exchange.opened(self.call("initialize", opening(manifest, grants, extra)))

    def call(self, method: str, params: Params | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer; raises like :meth:`Call.result`."""
        return self.start(method, params).result(timeout)

    def start(self, method: str, params: Params | None = None, *, stream: bool = False) -> Call:
        """Send a request and return at once, even if the sidecar is not reading yet.

        :param stream: adds a ``channel`` of its own to the params, so that the call has messages.
        :raises SidecarGoneError: if the process no longer takes input.
        """
        call = Call(self, self._exchange.next_id(), self._exchange.next_channel() if stream else None)
        try:
            line = self._exchange.request(call, method, params)
            self._send(line, call)
        except SidecarGoneError:
            self._exchange.unsent(call)
            raise SidecarGoneError(self.process.poll()) from None
        return call

    def attach(self, job_id: str, *, timeout: float | None = None) -> Stream:
        """Stream a job's further messages, starting with its last one, on a new channel; its previous channel ends.

        :raises RemoteError: if the job is not known any more.
        """
        stream = Stream(self._exchange.next_channel())
        self._exchange.attach(stream)
        try:
            self.call("jobs.attach", {"jobId": job_id, "channel": stream.channel}, timeout=timeout)
        except BaseException:
            self._exchange.detach(stream)
            raise
        return stream

    def pick_file(self, path: str | Path, access: Literal["read", "write"]) -> dict[str, Any]:
        """Turn a file that the user picked in a dialog into a handle: ``handle``, ``name`` and, to read, ``bytes``."""
        return self.call("host.pickFile", {"path": str(path), "access": access})

    def pick_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        """Like :meth:`pick_file`, for a file to read that the sidecar may not open itself: its ``name`` and bytes."""
        return self.call("host.pickFile", {"name": name, "data": base64.b64encode(data).decode(), "access": "read"})

    def pick_open_file(self, name: str, descriptor: int, access: Literal["read", "write"]) -> dict[str, Any]:
        """Like :meth:`pick_file`, for a regular file that is open here with that access; needs ``hands_files``. The
        descriptor may be closed once this returns.

        :raises RuntimeError: without ``hands_files``.
        :raises SidecarGoneError: if the process has ended.
        """
        if self._handing is None:
            raise RuntimeError("this sidecar was spawned without hands_files")
        try:
            passed = self._handing.send(descriptor)
        except OSError:
            raise SidecarGoneError(self.process.poll()) from None
        return self.call("host.pickFile", {"name": name, "descriptor": passed, "access": access})

    def release_file(self, handle: str) -> None:
        """Release a handle: no new call may use it."""
        self.call("host.releaseFile", {"handle": handle})

    def notify(self, method: str, params: Params | None = None) -> None:
        """Send a notification; there is no answer.

        :raises SidecarGoneError: if the process no longer takes input.
        """
        self._send(notification(method, params), None)

    def send_raw(self, line: bytes) -> None:
        """Send arbitrary bytes as one line, adding LF. Answers that match no call end up in :meth:`next_unmatched`.

        :raises SidecarGoneError: if the process no longer takes input.
        """
        self._send(line, None)

    def next_unmatched(self, timeout: float | None = None) -> Any:
        """Return the next decoded line that belongs to no call or channel of this client: raw answers, batches.

        :raises TimeoutError: if none arrives in time.
        """
        try:
            return self._unmatched.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"No further message within {timeout} s.") from None

    def close(self, timeout: float = 5.0) -> int:
        """Shut the session down cleanly, or kill the process after ``timeout`` seconds. May be called again.

        :returns: the exit status; negative for a signal.
        """
        if self.process.poll() is None:
            with contextlib.suppress(ClientError, TimeoutError):
                self.call("shutdown", timeout=timeout)
            with contextlib.suppress(ClientError):
                self.notify("exit")
        self._outgoing.put(None)  # stdin is closed after the queued lines
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._deaf = True
        self._writer.join(timeout)
        self._reader.join(timeout)
        if self.process.stdout is not None and not self._reader.is_alive():
            self.process.stdout.close()
        if self._handing is not None:
            self._handing.close()
        return status

    # --- the writer thread ---

    def _send(self, line: bytes, call: Call | None) -> None:
        if self._deaf:
            raise SidecarGoneError(self.process.poll())
        if self._record is not None:
            self._record("send", line)
        self._outgoing.put((line, call))

    def _write(self) -> None:
        stream = self.process.stdin
        assert stream is not None
        while (entry := self._outgoing.get()) is not None:
            line, call = entry
            try:
                rest = memoryview(line + b"\n")
                while rest:
                    rest = rest[stream.write(rest) :]
            except (OSError, ValueError):
                self._deaf = True
                if call is not None and self._exchange.unsent(call):
                    call.finish(SidecarGoneError(self._status()))
        self._deaf = True
        with contextlib.suppress(OSError):
            stream.close()

    def _status(self) -> int | None:
        """The exit status, if the process is just ending."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1)
        return None

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
        calls, streams = self._exchange.end()
        status = self._status() if calls else None
        for call in calls:
            call.finish(SidecarGoneError(status))
        for stream in streams:
            stream.lost(SidecarGoneError(status))

    def _line(self, line: Any) -> None:
        if self._record is not None and isinstance(line, bytes):
            self._record("receive", line)
        self._exchange.line(line)
