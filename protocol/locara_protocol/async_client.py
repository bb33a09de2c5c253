"""The client of :mod:`locara_protocol.client` for an event loop, with anyio (which this module alone needs).

    async with AsyncSidecar(["locara-sidecar", "serve"]) as sidecar:
        await sidecar.initialize(manifest=manifest, grants={"user-folder": folder})
        call = sidecar.start("image.generate", {"prompt": "a red circle"}, stream=True)
        async for step in call.messages():
            show(step)
        result = await call.result()

A task that is cancelled while it waits for an answer cancels the call, too: ``with anyio.move_on_after(30)`` ends the
job, not only the waiting.
"""

from __future__ import annotations

import base64
import contextlib
import math
import subprocess
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import anyio

from locara_protocol.client_errors import ClientError, ProtocolViolationError, RemoteError, SidecarGoneError
from locara_protocol.clients.exchange import MAX_ANSWER_BYTES, Channel, Exchange, Pending, notification, opening
from locara_protocol.clients.typed_async_calls import TypedAsyncCalls
from locara_protocol.framing import LineSplitter
from locara_protocol.handing import HandingSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from anyio.abc import ByteReceiveStream, ByteSendStream, Process, TaskGroup
    from anyio.streams.memory import MemoryObjectReceiveStream

    from locara_protocol.clients.exchange import Params

__all__ = [
    "AsyncCall",
    "AsyncSidecar",
    "AsyncStream",
    "ClientError",
    "ProtocolViolationError",
    "RemoteError",
    "SidecarGoneError",
]


class AsyncStream(Channel):
    """The messages of one channel; made by :meth:`AsyncSidecar.attach`, or as part of an :class:`AsyncCall`."""

    def __init__(self, channel: int | None) -> None:
        super().__init__(channel)
        self._messages: deque[dict[str, Any] | ClientError | None] = deque()
        self._news = anyio.Event()

    def deliver(self, item: dict[str, Any] | ClientError | None) -> None:
        """Keeps it for :meth:`messages`."""
        self._messages.append(item)
        self._news.set()

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """The channel's messages as they come, until its end frame; nothing if the call does not stream.

        Messages wait in memory until they are taken; they can be taken once.

        :raises ProtocolViolationError: for a hole in the indexes or a wrong count at the end.
        :raises SidecarGoneError: if the process ends before the end frame.
        """
        while self.channel is not None:
            while self._messages:
                message = self._messages.popleft()
                if message is None:
                    return
                if isinstance(message, ClientError):
                    raise message
                yield message
            self._news = anyio.Event()
            await self._news.wait()


class AsyncCall(Pending, AsyncStream):
    """One request under way; made by :meth:`AsyncSidecar.start`."""

    def __init__(self, sidecar: AsyncSidecar, request_id: int, channel: int | None) -> None:
        super().__init__(request_id, channel)
        self._sidecar = sidecar
        self._done = anyio.Event()

    def answered(self) -> None:
        """Wakes the task that waits for it."""
        self._done.set()

    def cancel(self) -> None:
        """Asks for an end; the call is still answered, with RequestCancelled or with its result."""
        self._sidecar.notify("$/cancelRequest", {"id": self.id})

    async def result(self) -> dict[str, Any]:
        """Waits for the answer. A task that is cancelled here goes without it, and the call goes on.

        :raises RemoteError: if the answer is an error.
        :raises SidecarGoneError: if the process ended without an answer.
        :raises ProtocolViolationError: if the answer or the channel broke the contract.
        """
        await self._done.wait()
        return self.outcome()


class AsyncSidecar(TypedAsyncCalls):
    """A sidecar process and the session with it; the process is there within ``async with``.

    :param command: what to run, for example ``["locara-sidecar", "serve"]``.
    :param env: the child's whole environment; None inherits ours.
    :param cwd: the child's working folder.
    :param stderr: where its log goes, as for :func:`anyio.open_process`; None inherits ours.
    :param hands_files: whether :meth:`pick_open_file` is used; adds ``--descriptors`` to the command.
    :raises OSError: on entering, if the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stderr: int | IO[bytes] | None = None,
        hands_files: bool = False,
    ) -> None:
        self._command, self._env, self._cwd, self._stderr = list(command), env, cwd, stderr
        self._hands_files = hands_files
        self._handing: HandingSocket | None = None
        self._exchange = Exchange(lambda _message: None)
        self.violations = self._exchange.violations
        """Every broken rule seen so far, also those that no call raised."""
        self._deaf, self._over = False, anyio.Event()
        self._process: Process | None = None
        self._tasks: TaskGroup | None = None

    @property
    def process(self) -> Process:
        """The child.

        :raises RuntimeError: before ``async with``.
        """
        if self._process is None:
            raise RuntimeError("The sidecar is started by async with.")
        return self._process

    async def __aenter__(self) -> Self:
        self._handing = handing = HandingSocket() if self._hands_files else None
        self._process = await anyio.open_process(
            self._command if handing is None else [*self._command, *handing.flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=self._env,
            cwd=self._cwd,
            pass_fds=() if handing is None else handing.inherited,
        )
        if handing is not None:
            handing.spawned()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._outgoing, lines = anyio.create_memory_object_stream[tuple[bytes, AsyncCall | None]](math.inf)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._write, lines, self._process.stdin)
        self._tasks.start_soon(self._read, self._process.stdout)
        return self

    async def __aexit__(self, *given: Any) -> bool | None:
        with anyio.CancelScope(shield=True):
            await self.close()
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        try:
            return await self._tasks.__aexit__(*given)
        finally:
            self._lose(self.process.returncode)
            if self._handing is not None:
                self._handing.close()

    async def initialize(
        self, manifest: dict[str, Any] | None = None, grants: dict[str, str] | None = None, **extra: Any
    ) -> dict[str, Any]:
        """Opens the session. ``extra`` are further wire members, such as ``processId``; they win.

        :raises ProtocolViolationError: if the sidecar answers in a version of the contract that was not offered.
        """
        return self._exchange.opened(await self.call("initialize", opening(manifest, grants, extra)))

    async def call(self, method: str, params: Params | None = None) -> dict[str, Any]:
        """Sends a request and waits for its answer; raises as :meth:`AsyncCall.result`.

        A task that is cancelled meanwhile cancels the call.
        """
        call = self.start(method, params)
        try:
            return await call.result()
        except anyio.get_cancelled_exc_class():
            with contextlib.suppress(SidecarGoneError):
                call.cancel()
            raise

    def start(self, method: str, params: Params | None = None, *, stream: bool = False) -> AsyncCall:
        """Sends a request without waiting for anything, within the event loop.

        :param stream: adds a ``channel`` of its own to the params, so that the call has messages.
        :raises SidecarGoneError: if the process takes no input any more.
        """
        call = AsyncCall(self, self._exchange.next_id(), self._exchange.next_channel() if stream else None)
        try:
            self._send(self._exchange.request(call, method, params), call)
        except SidecarGoneError:
            self._exchange.unsent(call)
            raise SidecarGoneError(self.process.returncode) from None
        return call

    async def attach(self, job_id: str) -> AsyncStream:
        """The further messages of a job, its last one first, on a channel of its own; the one it had before ends.

        :raises RemoteError: for a job that is not known any more.
        """
        stream = AsyncStream(self._exchange.next_channel())
        self._exchange.attach(stream)
        try:
            await self.call("jobs.attach", {"jobId": job_id, "channel": stream.channel})
        except BaseException:
            self._exchange.detach(stream)
            raise
        return stream

    async def pick_file(self, path: str | Path, access: Literal["read", "write"]) -> dict[str, Any]:
        """Make a handle of a file that the user picked in a dialog: ``handle``, ``name`` and, to read, ``bytes``."""
        return await self.call("host.pickFile", {"path": str(path), "access": access})

    async def pick_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        """The same for a file to read that the sidecar may not open itself: its ``name`` and its bytes."""
        encoded = base64.b64encode(data).decode()
        return await self.call("host.pickFile", {"name": name, "data": encoded, "access": "read"})

    async def pick_open_file(self, name: str, descriptor: int, access: Literal["read", "write"]) -> dict[str, Any]:
        """The same for a file that is open here, regular and for that access; with ``hands_files``. It may be closed
        once this returns.

        :raises RuntimeError: without ``hands_files``.
        :raises SidecarGoneError: if the process has ended.
        """
        if self._handing is None:
            raise RuntimeError("this sidecar was spawned without hands_files")
        if self._handing.fileno() < 0:  # closed, as the process has ended
            raise SidecarGoneError(self.process.returncode)
        try:
            await anyio.wait_writable(self._handing)
            passed = self._handing.send(descriptor)
        except OSError:
            raise SidecarGoneError(self.process.returncode) from None
        return await self.call("host.pickFile", {"name": name, "descriptor": passed, "access": access})

    async def release_file(self, handle: str) -> None:
        """No new call may use that handle any more."""
        await self.call("host.releaseFile", {"handle": handle})

    def notify(self, method: str, params: Params | None = None) -> None:
        """Sends a notification; there is no answer.

        :raises SidecarGoneError: if the process takes no input any more.
        """
        self._send(notification(method, params), None)

    async def close(self, timeout: float = 5.0) -> int:  # noqa: ASYNC109  two waits, after which it kills
        """Ends the session in good order, or kills the process after ``timeout`` seconds. May be repeated.

        :returns: the exit status; negative for a signal.
        """
        process = self.process
        if process.returncode is None:
            with contextlib.suppress(ClientError), anyio.move_on_after(timeout):
                await self.start("shutdown").result()
            with contextlib.suppress(ClientError):
                self.notify("exit")
        self._deaf = True
        self._outgoing.close()  # stdin is closed behind what waits
        with anyio.move_on_after(timeout):
            await process.wait()
        if process.returncode is None:
            process.kill()
        status = await process.wait()
        with anyio.move_on_after(timeout):  # what it wrote at the end; something else may hold its output open
            await self._over.wait()
        return status

    # --- the tasks ---

    def _send(self, line: bytes, call: AsyncCall | None) -> None:
        if self._deaf:
            raise SidecarGoneError(self.process.returncode)
        self._outgoing.send_nowait((line, call))

    async def _write(
        self, lines: MemoryObjectReceiveStream[tuple[bytes, AsyncCall | None]], stdin: ByteSendStream
    ) -> None:
        async with lines, stdin:
            async for line, call in lines:
                try:
                    await stdin.send(line + b"\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    self._deaf = True
                    if call is not None and self._exchange.unsent(call):
                        call.finish(SidecarGoneError(await self._status()))

    async def _status(self) -> int | None:
        """The exit status, if the process ends about now."""
        with anyio.move_on_after(1):
            return await self.process.wait()
        return None

    async def _read(self, stdout: ByteReceiveStream) -> None:
        splitter = LineSplitter(MAX_ANSWER_BYTES)
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            async with stdout:
                async for data in stdout:
                    for line in splitter.feed(data):
                        self._exchange.line(line)
        for line in splitter.finish():
            self._exchange.line(line)
        self._exchange.gone = True
        self._lose(await self._status() if self._exchange.busy else None)
        self._over.set()

    def _lose(self, status: int | None) -> None:
        calls, streams = self._exchange.end()
        for call in calls:
            call.finish(SidecarGoneError(status))
        for stream in streams:
            stream.lost(SidecarGoneError(status))
