"""The event-loop version of :mod:`locara_protocol.client`, built on anyio (which only this module needs).

    async with AsyncSidecar(["locara-sidecar", "serve"]) as sidecar:
        await sidecar.initialize(manifest=manifest, grants={"user-folder": folder})
        call = sidecar.start("image.generate", {"prompt": "a red circle"}, stream=True)
        async for step in call.messages():
            show(step)
        result = await call.result()

Cancelling a task that waits for an answer cancels the call, too: ``with anyio.move_on_after(30)`` ends the job, not
only the waiting.
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
    """The messages of one channel; created by :meth:`AsyncSidecar.attach`, or as part of an :class:`AsyncCall`."""

    def __init__(self, channel: int | None) -> None:
        super().__init__(channel)
        self._messages: deque[dict[str, Any] | ClientError | None] = deque()
        self._news = anyio.Event()

    def deliver(self, item: dict[str, Any] | ClientError | None) -> None:
        """Queue an item for :meth:`messages`."""
        self._messages.append(item)
        self._news.set()

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the channel's messages as they arrive, up to its end frame; nothing if the call does not stream.

        Messages are kept in memory until they are consumed, and can be consumed once.

        :raises ProtocolViolationError: for a gap in the indexes or a wrong count at the end.
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
    """One request in flight; created by :meth:`AsyncSidecar.start`."""

    def __init__(self, sidecar: AsyncSidecar, request_id: int, channel: int | None) -> None:
        super().__init__(request_id, channel)
        self._sidecar = sidecar
        self._done = anyio.Event()

    def answered(self) -> None:
        """Wake the task that waits for the answer."""
        self._done.set()

    def cancel(self) -> None:
        """Ask the sidecar to cancel; the call is still answered, with RequestCancelled or with its result."""
        self._sidecar.notify("$/cancelRequest", {"id": self.id})

    async def result(self) -> dict[str, Any]:
        """Wait for the answer. Cancelling a task here only ends its waiting: the call goes on.

        :raises RemoteError: if the answer is an error.
        :raises SidecarGoneError: if the process ended without an answer.
        :raises ProtocolViolationError: if the answer or the channel broke the contract.
        """
        await self._done.wait()
        return self.outcome()


class AsyncSidecar(TypedAsyncCalls):
    """A sidecar process and its session; the process runs within ``async with``.

    :param command: what to run, for example ``["locara-sidecar", "serve"]``.
    :param env: the child's whole environment; None inherits ours.
    :param cwd: the child's working directory.
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
        """Every contract violation seen so far, including those that no call raised."""
        self._deaf, self._over = False, anyio.Event()
        self._process: Process | None = None
        self._tasks: TaskGroup | None = None

    @property
    def process(self) -> Process:
        """The child process.

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
        """Open the session. ``extra`` are further wire members, such as ``processId``; they take precedence.

        :raises ProtocolViolationError: if the sidecar answers with a contract version that was not offered.
        """
        return self._exchange.opened(await self.call("initialize", opening(manifest, grants, extra)))

    async def call(self, method: str, params: Params | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer; raises like :meth:`AsyncCall.result`.

        If the task is cancelled meanwhile, so is the call.
        """
        call = self.start(method, params)
        try:
            return await call.result()
        except anyio.get_cancelled_exc_class():
            with contextlib.suppress(SidecarGoneError):
                call.cancel()
            raise

    def start(self, method: str, params: Params | None = None, *, stream: bool = False) -> AsyncCall:
        """Send a request without awaiting anything; call it from the event loop.

        :param stream: adds a ``channel`` of its own to the params, so that the call has messages.
        :raises SidecarGoneError: if the process no longer takes input.
        """
        call = AsyncCall(self, self._exchange.next_id(), self._exchange.next_channel() if stream else None)
        try:
            self._send(self._exchange.request(call, method, params), call)
        except SidecarGoneError:
            self._exchange.unsent(call)
            raise SidecarGoneError(self.process.returncode) from None
        return call

    async def attach(self, job_id: str) -> AsyncStream:
        """Stream a job's further messages, starting with its last one, on a new channel; its previous channel ends.

        :raises RemoteError: if the job is not known any more.
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
        """Turn a file that the user picked in a dialog into a handle: ``handle``, ``name`` and, to read, ``bytes``."""
        return await self.call("host.pickFile", {"path": str(path), "access": access})

    async def pick_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        """Like :meth:`pick_file`, for a file to read that the sidecar may not open itself: its ``name`` and bytes."""
        encoded = base64.b64encode(data).decode()
        return await self.call("host.pickFile", {"name": name, "data": encoded, "access": "read"})

    async def pick_open_file(self, name: str, descriptor: int, access: Literal["read", "write"]) -> dict[str, Any]:
        """Like :meth:`pick_file`, for a regular file that is open here with that access; needs ``hands_files``. The
        descriptor may be closed once this returns.

        :raises RuntimeError: without ``hands_files``.
        :raises SidecarGoneError: if the process has ended.
        """
        if self._handing is None:
            raise RuntimeError("this sidecar was spawned without hands_files")
        if self._handing.fileno() < 0:  # closed because the process has ended
            raise SidecarGoneError(self.process.returncode)
        try:
            await anyio.wait_writable(self._handing)
            passed = self._handing.send(descriptor)
        except OSError:
            raise SidecarGoneError(self.process.returncode) from None
        return await self.call("host.pickFile", {"name": name, "descriptor": passed, "access": access})

    async def release_file(self, handle: str) -> None:
        """Release a handle: no new call may use it."""
        await self.call("host.releaseFile", {"handle": handle})

    def notify(self, method: str, params: Params | None = None) -> None:
        """Send a notification; there is no answer.

        :raises SidecarGoneError: if the process no longer takes input.
        """
        self._send(notification(method, params), None)

    async def close(self, timeout: float = 5.0) -> int:  # noqa: ASYNC109  two waits, after which it kills
        """Shut the session down cleanly, or kill the process after ``timeout`` seconds. May be called again.

        :returns: the exit status; negative for a signal.
        """
        process = self.process
        if process.returncode is None:
            with contextlib.suppress(ClientError), anyio.move_on_after(timeout):
                await self.start("shutdown").result()
            with contextlib.suppress(ClientError):
                self.notify("exit")
        self._deaf = True
        self._outgoing.close()  # stdin is closed after the queued lines
        with anyio.move_on_after(timeout):
            await process.wait()
        if process.returncode is None:
            process.kill()
        status = await process.wait()
        with anyio.move_on_after(timeout):  # drain its last output; something else may hold the pipe open
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
        """The exit status, if the process is just ending."""
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
