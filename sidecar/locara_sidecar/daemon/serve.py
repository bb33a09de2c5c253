"""``locara-sidecar serve``: wires descriptors, threads, event loop, server and engine; and ends them all in time.

Ending: whatever the reason, :meth:`Daemon.stop` is called once, a timer thread ends the process after
1.5 s even if the event loop is stuck, and the engine is killed before anything is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from locara_protocol.framing import LineSplitter, LineTooLong
from locara_sidecar.capability.policy import Policy
from locara_sidecar.daemon import engine_choice, hostwatch, logs, system
from locara_sidecar.daemon.outbox import HIGH_WATER_BYTES, Outbox
from locara_sidecar.daemon.server import Server
from locara_sidecar.daemon.stdio import ByteReader, LineWriter
from locara_sidecar.engine.lazy import LazyEngine

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from locara_sidecar.engine import frames
    from locara_sidecar.engine.client import EngineClient
    from locara_sidecar.models.catalogue import Catalogue

log = logging.getLogger("locara.daemon")

_HARD_END_SECONDS = 1.5
_ANSWER_SECONDS = 0.6
_FLUSH_SECONDS = 0.5
_AUDIT_SECONDS = 0.2
_BACKLOG_SECONDS = 0.02


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line fixed. Times in seconds."""

    policy: Policy | None
    engine: str
    cache_dir: str | None
    idle_unload: float
    stall_timeout: float
    queue: int
    max_line_bytes: int
    log_level: str
    flags: frozenset[str] = frozenset()
    compile: bool = False


class Daemon:
    """The process: everything that lives from spawn to exit.

    Requests are served before there is an event loop: :meth:`run` looks at what the host has already sent
    as soon as the dispatcher exists, and only then imports asyncio (which takes longer than all the rest).
    """

    def __init__(self, settings: Settings, known: Catalogue, read_fd: int, write_fd: int, parent: int) -> None:
        self._parent = parent
        self._outbox = Outbox()
        self._inbox: deque[bytes] = deque()
        self._reader = ByteReader(read_fd, self._deliver)
        self._writer = LineWriter(write_fd, self._outbox, lambda: self.stop(0, "stdout is closed"))
        self._splitter = LineSplitter(settings.max_line_bytes)
        self._lock = threading.Lock()
        self._stopping = False
        self._status = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_event: anyio.Event | None = None
        self._tasks: TaskGroup | None = None
        self._early: list[tuple[Any, ...]] = []
        self._reader.start()
        name = engine_choice.choose_engine(settings.engine)
        self._engine = LazyEngine(partial(_make_client, settings, name, lambda: self._server.models.readable()))
        self._server = Server(
            outbox=self._outbox,
            engine=self._engine,
            engine_name=name,
            catalogue=known,
            policy=settings.policy,
            cache_root=system.cache_root(settings.cache_dir),
            flags=settings.flags,
            max_queue=settings.queue,
            max_line_bytes=settings.max_line_bytes,
            stop=self.stop,
            start_task=self._start_task,
        )

    def run(self) -> int:
        """Serve until the end; returns the exit status."""
        self._writer.start()
        self._drain()
        anyio.run(self._main)
        return self._status

    # --- ending --------------------------------------------------------------------------

    def stop(self, status: int, reason: str) -> None:
        """Begin to end the process, from any thread; the first call decides."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._status = status
        log.info("stopping", extra={"fields": {"reason": reason, "status": status}})
        # not an event-loop timer: it must fire even if the loop is stuck
        timer = threading.Timer(_HARD_END_SECONDS, self._hard_end)
        timer.daemon = True
        timer.start()
        if self._stop_event is not None:
            self._call_soon(self._stop_event.set)

    def _hard_end(self) -> None:
        self._engine.close_now()
        os._exit(self._status)

    async def _end(self) -> None:
        """Answer what is open, end the engine, write what the host still takes."""
        self._server.cancel_all()
        self._engine.close_now()
        with anyio.move_on_after(_ANSWER_SECONDS):
            await self._server.wait_until_idle()
        self._outbox.close()
        await anyio.to_thread.run_sync(self._writer.wait, _FLUSH_SECONDS)
        await self._server.decisions.flush(_AUDIT_SECONDS)

    # --- the event loop ------------------------------------------------------------------

    async def _main(self) -> None:
        stopped = self._stop_event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for task in self._early:
                tasks.start_soon(*task)
            self._loop = cast("asyncio.AbstractEventLoop", anyio.lowlevel.current_token().native_token)
            self._drain()
            hostwatch.watch_parent(self._parent, lambda: self.stop(0, "the parent process is gone"))
            tasks.start_soon(self._watch_signals)
            if not self._stopping:
                await stopped.wait()
            await self._end()
            tasks.cancel_scope.cancel()

    def _start_task(self, function: Any, *args: Any) -> None:
        """Start a coroutine function in the daemon's task group, or as soon as there is one."""
        if self._tasks is None:
            self._early.append((function, *args))
        else:
            self._tasks.start_soon(function, *args)

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                self.stop(0, signal.Signals(number).name)

    def _call_soon(self, function: Callable[..., object]) -> None:
        """Run a function on the event loop, from any thread, without waiting for it."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: so has everything
                self._loop.call_soon_threadsafe(function)

    # --- lines ---------------------------------------------------------------------------

    def _deliver(self, chunk: bytes) -> None:
        """A chunk from stdin, in the reading thread; empty at its end."""
        self._inbox.append(chunk)
        self._call_soon(self._drain)
        while chunk and self._outbox.backlog() > HIGH_WATER_BYTES and not self._stopping:
            # the host asks and does not read: hold back what it asks until it does
            time.sleep(_BACKLOG_SECONDS)

    def _drain(self) -> None:
        """Look at the lines that have arrived, in order, on the main thread."""
        while self._inbox:
            chunk = self._inbox.popleft()
            for line in self._splitter.feed(chunk) if chunk else self._splitter.finish():
                if self._stopping:
                    return
                if isinstance(line, LineTooLong):
                    self._server.handle_long_line()
                else:
                    self._server.handle_line(line)
            if chunk:
                self._reader.done()
            else:
                self.stop(0, "stdin has ended")


def _make_client(settings: Settings, name: str, readable: Callable[[], list[str]]) -> EngineClient:
    from locara_sidecar.engine.client import EngineClient

    return EngineClient(
        name,
        idle_unload=settings.idle_unload,
        stall_timeout=settings.stall_timeout,
        readable=readable,
        settings={"compile": ""} if settings.compile and name == "torch" else {},
        on_log=_forward_log,
    )


def _forward_log(record: frames.Log) -> None:
    """An engine's log record, in the daemon's log."""
    logger = logging.getLogger(f"locara.engine.{record.logger}")
    level = logging.getLevelNamesMapping().get(record.level.upper(), logging.INFO)
    logger.log(level, "%s", record.msg, extra={"fields": record.fields})


def serve(settings: Settings, known: Catalogue, descriptors: tuple[int, int], parent: int) -> NoReturn:
    """Run the daemon on claimed descriptors and end the process; never returns.

    :param parent: the process that spawned this one.

    Ends with ``os._exit``: threads may still be blocked in a read or a write that will never return.
    """
    logs.start(settings.log_level)
    status = Daemon(settings, known, *descriptors, parent).run()
    logs.flush(0.2)
    os._exit(status)
