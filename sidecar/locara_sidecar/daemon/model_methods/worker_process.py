"""One process that runs ``models/worker.py``, as seen from the event loop.

A thread starts it, reads from it and waits for its end: forking, waiting for a folder that an update is just replacing
and ending the process take as long as the disk and the system need.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import anyio
import msgspec

from locara_protocol.errors import CODES, RpcError
from locara_protocol.framing import LineSplitter, LineTooLong
from locara_sidecar.daemon.engine_host import program
from locara_sidecar.machine import own_files
from locara_sidecar.machine.processes.child import Child, start_thread
from locara_sidecar.models import worker
from locara_sidecar.models.updates import not_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.daemon.engine_host.program import Program

log = logging.getLogger("locara.models")

_ENDING_SECONDS = 1.0
_CHUNK = 1 << 16
_MAX_AHEAD = 64
"""Maximum number of reports that wait for the event loop; beyond that the worker waits."""
_NOT_IMPORTED = 1  # the interpreter's status after an exception, which the worker itself reports once it is imported


class WorkerProcess:
    """A process that does one piece of work. Create and use it on the event loop's thread.

    :param argv: returns the command that runs the worker; called in the thread.
    :param work: what to do.
    :param tell: called on the loop with each report of progress, in order.
    :raises OSError: if the system refuses another thread.
    """

    before: Program | None = None
    """What it was started from; None if that was not there."""
    after: Program | None = None
    """What a process would be started from now that it has failed; known after :meth:`looked`."""
    replaced = False
    """Whether an update has replaced files since it was started; known after :meth:`looked`."""

    def __init__(
        self,
        argv: Callable[[], list[str]],
        work: worker.WorkerRequest,
        tell: Callable[[DownloadProgress], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # anyio needs it to find the loop, also without sniffio
        self._argv = argv
        self._request = msgspec.json.encode(work) + b"\n"
        self._tell = tell
        self._child = Child()
        self._popen: subprocess.Popen[bytes] | None = None
        self._ahead = threading.Semaphore(_MAX_AHEAD)
        self._outcome: worker.WorkerResult | Exception | None = None
        self._answered, self._gone, self._looked = anyio.Event(), anyio.Event(), anyio.Event()
        start_thread(self._live, name="model-worker")

    async def result(self) -> worker.WorkerResult:
        """Wait for the result, and for the end of the process. Cancelling the caller's task kills the process.

        :raises RpcError: as the operation does; StorageError with the reason ``updated`` if an update has left nothing
            that the process could be started from.
        :raises RuntimeError: if the process dies without a report.
        :raises msgspec.ValidationError: if it reports what this version does not understand.
        """
        try:
            await self._answered.wait()
        finally:
            if self._outcome is None:
                self._child.kill()  # in the middle of its work, or before
            if self._child.begun:
                with anyio.CancelScope(shield=True):
                    await self._gone.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    async def looked(self) -> None:
        """Wait until :attr:`after` and :attr:`replaced` are known: some seconds while an update replaces the folder."""
        await self._looked.wait()

    # --- on the event loop --------------------------------------------------------------------

    def _progress(self, progress: DownloadProgress) -> None:
        self._ahead.release()
        if not self._child.killed:
            try:
                self._tell(progress)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the caller is told
                self._child.kill()
                self._answer(error)

    def _answer(self, outcome: worker.WorkerResult | Exception) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._answered.set()

    # --- the thread ---------------------------------------------------------------------------

    def _post(self, call: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(call, *args, context=self._context)

    def _live(self) -> None:
        outcome: worker.WorkerResult | Exception
        began = time.time()
        try:
            self.before = program.find()  # waits if an update is just replacing it
            outcome = self._run()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the caller is told
            outcome = error
        self._post(self._answer, outcome)
        try:
            if self._popen is not None:
                self._end(self._popen)
        except Exception as error:  # noqa: BLE001 -- whatever fails, nobody may wait for it forever
            _log_failure(error)
        self._post(self._gone.set)
        try:
            if isinstance(outcome, Exception):
                self.replaced = own_files.settled_since(began)
                self.after = program.find()
        except Exception as error:  # noqa: BLE001
            _log_failure(error)
        self._post(self._looked.set)

    def _run(self) -> worker.WorkerResult:
        argv = self._argv()
        self._child.begin()
        try:
            popen = subprocess.Popen(
                argv,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise not_ours("it could not be started") from error
        self._popen = popen
        self._child.started(popen)
        assert popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            view = memoryview(self._request)
            while view:
                view = view[popen.stdin.write(view) :]
        return self._listen(popen)

    def _listen(self, popen: subprocess.Popen[bytes]) -> worker.WorkerResult:
        splitter = LineSplitter(worker.MAX_EVENT)
        assert popen.stdout is not None
        silent = True
        while chunk := os.read(popen.stdout.fileno(), _CHUNK):
            silent = False
            for line in splitter.feed(chunk):
                if isinstance(line, LineTooLong):
                    continue
                event: worker.Event = msgspec.json.decode(line, type=worker.Event)
                if isinstance(event, worker.ProgressFrame):
                    self._ahead.acquire()
                    self._post(self._progress, event.progress)
                elif isinstance(event, worker.WorkerResult):
                    return event
                elif event.kind in CODES and not event.trace:
                    raise RpcError(event.kind, event.message, retryable=event.retryable, **event.data)
                else:
                    log.error("a model's worker failed unexpectedly", extra={"fields": {"trace": event.trace}})
                    raise RuntimeError(f"the model's worker failed: {event.trace}")
        self._child.wait()
        self._child.reap()
        if silent and self._child.status == _NOT_IMPORTED:
            raise not_ours("it could not be started")
        raise RuntimeError(f"the model's worker ended without giving a reason (status {self._child.status})")

    def _end(self, popen: subprocess.Popen[bytes]) -> None:
        """Give the process time to end by itself, as it does after its last report; then end it."""
        self._child.ends_within(_ENDING_SECONDS)
        self._child.reap()
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                pipe.close()


def _log_failure(error: Exception) -> None:
    with contextlib.suppress(Exception):  # it may have been for want of memory
        log.error("the end of a model's worker could not be awaited (%s)", type(error).__name__)
