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
from typing import TYPE_CHECKING, NoReturn

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from locara_protocol.framing import LineSplitter, LineTooLong
from locara_sidecar.capability.policy import Policy
from locara_sidecar.daemon import hostwatch, logs, system
from locara_sidecar.daemon.outbox import HIGH_WATER_BYTES, Outbox
from locara_sidecar.daemon.server import Server
from locara_sidecar.daemon.stdio import ByteReader, LineWriter
from locara_sidecar.engine.client import EngineClient

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from locara_sidecar.engine import frames
    from locara_sidecar.models import catalogue

log = logging.getLogger("locara.daemon")

_HARD_END_SECONDS = 1.5
_ANSWER_SECONDS = 0.6
_FLUSH_SECONDS = 0.5
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


class Daemon:
    """The process: everything that lives from spawn to exit."""

    def __init__(self, settings: Settings, known: catalogue.Catalogue, read_fd: int, write_fd: int) -> None:
        self._settings = settings
        self._catalogue = known
        self._outbox = Outbox()
        self._reader = ByteReader(read_fd, self._deliver)
        self._writer = LineWriter(write_fd, self._outbox, lambda: self.stop(0, "stdout is closed"))
        self._splitter = LineSplitter(settings.max_line_bytes)
        self._lock = threading.Lock()
        self._stopping = False
        self._status = 0
        self._engine: EngineClient | None = None

    def run(self) -> int:
        """Serve until the end; returns the exit status."""
        self._writer.start()
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
        self._call_soon(self._stop_event.set)

    def _hard_end(self) -> None:
        if self._engine is not None:
            self._engine.close_now()
        os._exit(self._status)

    async def _end(self, server: Server, engine: EngineClient) -> None:
        """Answer what is open, end the engine, write what the host still takes."""
        server.generations.cancel_all()
        engine.close_now()
        with anyio.move_on_after(_ANSWER_SECONDS):
            await server.generations.wait_until_idle()
        self._outbox.close()
        await anyio.to_thread.run_sync(self._writer.wait, _FLUSH_SECONDS)

    # --- the event loop ------------------------------------------------------------------

    async def _main(self) -> None:
        settings = self._settings
        self._token = anyio.lowlevel.current_token()
        self._stop_event = anyio.Event()
        name = system.choose_engine(settings.engine)
        engine = self._engine = EngineClient(
            name,
            idle_unload=settings.idle_unload,
            stall_timeout=settings.stall_timeout,
            on_log=_forward_log,
        )
        async with anyio.create_task_group() as tasks:
            server = self._server = Server(
                outbox=self._outbox,
                engine=engine,
                engine_name=name,
                catalogue=self._catalogue,
                policy=settings.policy,
                cache_root=system.cache_root(settings.cache_dir),
                max_queue=settings.queue,
                max_line_bytes=settings.max_line_bytes,
                stop=self.stop,
                start_task=tasks.start_soon,
            )
            hostwatch.watch_parent(lambda: self.stop(0, "the parent process is gone"))
            tasks.start_soon(self._watch_signals)
            self._reader.start()
            await self._stop_event.wait()
            await self._end(server, engine)
            tasks.cancel_scope.cancel()

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                self.stop(0, signal.Signals(number).name)

    def _call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Run a function on the event loop, from any thread, without waiting for it."""
        loop: asyncio.AbstractEventLoop = self._token.native_token  # type: ignore[assignment]
        with contextlib.suppress(RuntimeError):  # the loop has ended: so has everything
            loop.call_soon_threadsafe(function, *args)

    def _deliver(self, chunk: bytes) -> None:
        """A chunk from stdin, in the reading thread."""
        if not chunk:
            # noted in this thread: the end must be seen even while the loop is busy
            self._call_soon(self._dispatch, chunk)
            return
        self._call_soon(self._dispatch, chunk)
        while self._outbox.backlog() > HIGH_WATER_BYTES and not self._stopping:
            # the host asks and does not read: hold back what it asks until it does
            time.sleep(_BACKLOG_SECONDS)

    def _dispatch(self, chunk: bytes) -> None:
        """Look at the lines of a chunk, in order, on the event loop."""
        lines = self._splitter.feed(chunk) if chunk else self._splitter.finish()
        for line in lines:
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


def _forward_log(record: frames.Log) -> None:
    """An engine's log record, in the daemon's log."""
    logger = logging.getLogger(f"locara.engine.{record.logger}")
    logger.log(
        logging.getLevelNamesMapping().get(record.level.upper(), logging.INFO),
        "%s",
        record.msg,
        extra={"fields": record.fields},
    )


def serve(settings: Settings, known: catalogue.Catalogue, descriptors: tuple[int, int]) -> NoReturn:
    """Run the daemon on claimed descriptors and end the process; never returns.

    Ends with ``os._exit``: threads may still be blocked in a read or a write that will never return.
    """
    logs.start(settings.log_level)
    status = Daemon(settings, known, *descriptors).run()
    logs.flush(0.2)
    os._exit(status)
