"""``locara-sidecar serve``: sets up descriptors, threads, event loop, server and engine, and ends them all in time.

Ending: whatever the reason, :meth:`Daemon.stop` takes effect once. A thread that exists from the start ends the process
after 1.5 s even if the event loop is stuck, and the engine is killed before anything is waited for. No step needs what
an exhausted machine may refuse (a thread, a descriptor), and none is skipped because another one failed.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import mmap
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

import anyio
import anyio.lowlevel

from locara_sidecar.daemon.engine_host.lazy import LazyEngine
from locara_sidecar.daemon.jobs.job_runner import cancelled_error
from locara_sidecar.daemon.methods import Methods
from locara_sidecar.daemon.process import hostwatch, kept_modules, logs
from locara_sidecar.daemon.process.ending import Ending
from locara_sidecar.daemon.wire.calls import Calls, internal_error
from locara_sidecar.daemon.wire.incoming import Incoming
from locara_sidecar.daemon.wire.off_loop import keep_a_thread
from locara_sidecar.daemon.wire.outbox import Outbox
from locara_sidecar.daemon.wire.server import Server
from locara_sidecar.daemon.wire.stdio import LineWriter
from locara_sidecar.machine import engine_choice, own_files, supported
from locara_sidecar.machine.processes import garbage

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from locara_sidecar.daemon.engine_host.client import EngineClient
    from locara_sidecar.daemon.settings import Settings
    from locara_sidecar.ipc import frames
    from locara_sidecar.models.catalogue import Catalogue

log = logging.getLogger("locara.daemon")

_HARD_END_SECONDS = 1.4
_ANSWER_SECONDS = 0.6
_FLUSH_SECONDS = 0.5
_AUDIT_SECONDS = 0.2
_LATE_SECONDS = 0.2
_RESERVE_BYTES = 8 << 20
_QUIETLY = contextlib.suppress(Exception)  # created while there is memory for it


class Daemon:
    """The process: everything that lives from spawn to exit.

    Requests are served before there is an event loop: :meth:`run` looks at what the host has already sent as soon as
    the dispatcher exists, and only then imports asyncio (which takes longer than all the rest).
    """

    def __init__(self, settings: Settings, known: Catalogue, read_fd: int, write_fd: int, parent: int) -> None:
        self._outbox = Outbox()
        self._incoming = Incoming(
            read_fd,
            settings.max_line_bytes,
            self._outbox,
            arrived=lambda: self._call_soon(self._drain),
            later=self._later,
            ended=lambda: self.stop(0, "stdin has ended"),
        )
        self._writer = LineWriter(write_fd, self._outbox, lambda: self.stop(0, "stdout is closed"))
        self._lock = threading.Lock()
        self._stopping = False
        self._status = 0
        self._reserve = mmap.mmap(-1, _RESERVE_BYTES)  # never touched: address space reserved for the last steps
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None  # anyio needs it to find the loop, also without sniffio
        self._stop_event: anyio.Event | None = None
        self._turn = threading.Event()  # while there is no event loop: something has happened
        self._tasks: TaskGroup | None = None
        self._early: list[tuple[Any, ...]] = []
        self._due: set[Callable[[], None]] = set()  # functions that the loop is about to call
        self._ending = Ending(lambda name: self.stop(0, name), self._hard_end, _HARD_END_SECONDS)
        kept_modules.wait_until_kept()
        self._ending.start()  # before anything is read: accepted calls are answered, whatever ends the process
        hostwatch.watch_parent(parent, lambda: self.stop(0, "the parent process is gone"))
        self._incoming.start()
        name = engine_choice.choose_engine(settings.engine)
        self._engine = LazyEngine(partial(_make_client, settings, name, lambda: self._methods.gate.readable()))
        self._calls = Calls(self._outbox)
        self._methods = Methods(
            outbox=self._outbox,
            calls=self._calls,
            engine=self._engine,
            engine_name=name,
            prefer_float16=settings.prefer_float16,
            catalogue=known,
            policy=settings.policy,
            cache_root=settings.cache_root,
            flags=settings.flags,
            descriptors=settings.descriptors,
            max_queue=settings.queue,
            max_line_bytes=settings.max_line_bytes,
            on_room=lambda: self._call_soon(self._server.go_on),
            stop=self.stop,
            start_task=self._start_task,
        )
        self._server = Server(
            self._outbox,
            self._calls,
            self._methods.session,
            self._methods.handlers,
            cancel=self._methods.cancel,
            leave=self._methods.leave,
            max_line_bytes=settings.max_line_bytes,
            start_aside=self._start_aside,
            is_full=self._methods.is_full,
            resume=self._drain,
            later=self._later,
            stopping=lambda: self._stopping,
            refusal=cancelled_error([]),
            broken=self._broken,
        )
        # created now: at the end there may be no memory for them
        self._failure: Exception = internal_error()
        self._when_ended = (
            self._methods.shut_down,
            *self._last_steps(partial(self._calls.fail_all, cancelled_error([]))),
        )
        self._when_failed = (
            partial(self.stop, 1, "the daemon failed"),
            *self._last_steps(lambda: self._calls.fail_all(self._failure)),
            lambda: _tell("the daemon failed", self._failure),
            partial(logs.flush, _FLUSH_SECONDS),
        )
        # last: while this thread waits for that one to start, the reading thread delivers what the host has already
        # sent
        self._writer.start()

    def run(self) -> int:
        """Serve until the end; return the exit status."""
        try:
            self._drain()
            kept_modules.run(self._main, lambda: self._loop is not None)
        except Exception as error:  # noqa: BLE001 -- an event loop that cannot be made, or no memory
            steps = self._when_failed
            if self._loop is None and own_files.is_of_ours(error):
                _tell("there is no event loop; calls are refused", error)
                self._serve_without_loop(error)
                steps = self._when_ended if self._stopping else self._when_failed
            self._reserve.close()
            self._failure = error
            for step in steps:
                try:
                    step()
                except Exception:  # noqa: BLE001 -- reporting it takes memory, too
                    continue
        return self._status

    def _serve_without_loop(self, failure: Exception) -> None:
        """Answer what needs the event loop with why there is none, until the host ends the daemon. It would not learn
        from a dead one that an update has taken the loop's modules away.
        """
        self._server.refuse_work(failure)
        self._calls.fail_all(failure)
        while not self._stopping and not self._server.busy:
            self._drain()
            self._turn.wait()
            self._turn.clear()

    # --- ending --------------------------------------------------------------------------

    def stop(self, status: int, reason: str) -> None:
        """Begin to end the process, from any thread; the first call wins."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            self._status = status
        self._ending.begin()
        if self._stop_event is not None:
            self._call_soon(self._stop_event.set)
        self._turn.set()
        with contextlib.suppress(MemoryError):
            log.info("stopping", extra={"fields": {"reason": reason, "status": status}})

    def _hard_end(self) -> None:
        try:
            self._engine.kill()
            # a separate thread, because this one ends the process whatever happens to it
            late = threading.Thread(target=self._answer_late, daemon=True)
            late.start()
            late.join(_LATE_SECONDS)
        finally:
            os._exit(self._status)

    def _answer_late(self) -> None:
        """Answer open calls while the main thread is held up, perhaps importing asyncio on a busy machine. It may be
        answering a call at this very moment: whichever thread closes the call first has answered it.
        """
        _attempt(self._server.end)
        self._calls.fail_all(cancelled_error([]))
        self._outbox.close()
        self._writer.wait(_LATE_SECONDS)

    async def _end(self) -> None:
        """Answer open calls, end the engine, and write what the host still reads."""
        _attempt(self._methods.cancel_all)
        _attempt(self._engine.close_now)
        try:
            with anyio.move_on_after(_ANSWER_SECONDS):
                await self._methods.wait_until_idle()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon goes on, or to its end
            _tell("ending: calls were not waited for", error)
        # blocks the loop, which has nothing left to do: the system may refuse new threads, and a task that waits for a
        # disk would prevent any further progress
        for step in self._when_ended:
            _attempt(step)

    def _last_steps(self, fail_all: Callable[[], object]) -> tuple[Callable[[], object], ...]:
        """Return the steps of the end, once nothing can be waited for any more; repeating them is quick.

        :param fail_all: answers the calls that are still open.
        """
        return (
            self._engine.close_now,
            self._server.end,
            fail_all,
            self._outbox.close,
            partial(self._writer.wait, _FLUSH_SECONDS),
            partial(self._methods.decisions.flush, _AUDIT_SECONDS),
        )

    # --- the event loop ------------------------------------------------------------------

    async def _main(self) -> None:
        stopped = self._stop_event = anyio.Event()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for task in self._early:
                tasks.start_soon(_guarded, *task)
            self._context = contextvars.copy_context()
            self._loop = cast("asyncio.AbstractEventLoop", anyio.lowlevel.current_token().native_token)
            garbage.start()
            self._drain()
            kept_modules.start()
            tasks.start_soon(_guarded, keep_a_thread)
            if not self._stopping:
                await stopped.wait()
            await self._end()
            tasks.cancel_scope.cancel()

    def _start_task(self, function: Any, *args: Any) -> None:
        """Start a coroutine function in the daemon's task group, or as soon as there is one."""
        if self._tasks is None:
            self._early.append((function, *args))
        else:
            self._tasks.start_soon(_guarded, function, *args)

    def _start_aside(self, function: Any, *args: Any) -> bool:
        """Start a coroutine function as a task, if there is an event loop to run it."""
        if self._loop is not None:
            self._start_task(function, *args)
        return self._loop is not None

    def _call_soon(self, function: Callable[..., object]) -> None:
        """Run a function on the event loop, from any thread, without waiting for it."""
        self._turn.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and everything with it
                self._loop.call_soon_threadsafe(function, context=self._context)

    def _later(self, function: Callable[[], None]) -> bool:
        """Run a function in its own callback, once however often it is asked for until then; False if there is no event
        loop yet. On the loop's thread only.
        """
        if self._loop is None:
            return False
        if function not in self._due:
            self._loop.call_soon(self._run_due, function, context=self._context)
            self._due.add(function)
        return True

    def _run_due(self, function: Callable[[], None]) -> None:
        self._due.discard(function)
        function()

    def _drain(self) -> None:
        """Process the lines that have arrived, on the main thread."""
        try:
            self._incoming.drain(self._server, lambda: self._stopping, self._drain)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon goes on, or to its end
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        self.stop(1, "stdin could not be read any further")
        _tell("lines could not be processed", error)


async def _guarded(function: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Run a task so that its failure does not end the daemon. What it runs answers its call."""
    try:
        await function(*args)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon goes on, or to its end
        _tell("a task failed", error)


def _attempt(step: Callable[[], object]) -> None:
    """Run one step of the end; the next one follows whatever happens."""
    try:
        step()
    except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon goes on, or to its end
        _tell("ending: a step failed", error)


def _tell(what: str, error: Exception) -> None:
    """Log an exception, if there is memory for that. Our handler omits its text."""
    with _QUIETLY:
        log.error(what, exc_info=error)


def _make_client(settings: Settings, name: str, readable: Callable[[], list[str]]) -> EngineClient:
    from locara_sidecar.daemon.engine_host.client import EngineClient

    return EngineClient(
        name,
        idle_unload=settings.idle_unload,
        stall_timeout=settings.stall_timeout,
        readable=readable,
        settings=_engine_settings(settings, supported.ENGINES[name]),
        on_log=_forward_log,
    )


def _engine_settings(settings: Settings, engine: supported.Engine) -> dict[str, str]:
    """Return the switches that were given and mean something to the engine."""
    given = {
        "compile": settings.compile and engine.compiles,
        "prefer_float16": settings.prefer_float16 and engine.prefers_float16,
    }
    return {name: "" for name, on in given.items() if on}


def _forward_log(record: frames.Log) -> None:
    """Log an engine's log record in the daemon's log."""
    logger = logging.getLogger(f"locara.engine.{record.logger}")
    level = logging.getLevelNamesMapping().get(record.level.upper(), logging.INFO)
    logger.log(level, "%s", record.msg, extra={"fields": record.fields})


def serve(settings: Settings, known: Catalogue, descriptors: tuple[int, int], parent: int) -> NoReturn:
    """Run the daemon on claimed descriptors and end the process; never returns.

    :param parent: the process that spawned this one.

    Ends with ``os._exit``: threads may be blocked in a read or a write that will never return.
    """
    logs.start(settings.log_level)
    for words in known.skipped:
        log.warning("left out of the catalogue", extra={"fields": {"file": words}})
    daemon = Daemon(settings, known, *descriptors, parent)
    status = 1
    try:
        status = daemon.run()
        logs.flush(0.2)
    finally:  # no exception may reach the caller, which would report that the daemon cannot start
        os._exit(status)
