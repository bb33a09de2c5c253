"""Runs ``models/worker.py`` from the event loop: reports its progress, returns its result or raises its error."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import anyio
import anyio.abc
import msgspec

from locara_protocol.errors import CODES, RpcError
from locara_protocol.framing import LineSplitter, LineTooLong
from locara_protocol.model_messages import DownloadPhase
from locara_sidecar.daemon.engine_host import program
from locara_sidecar.daemon.wire.off_loop import off_loop
from locara_sidecar.machine import own_files
from locara_sidecar.machine.processes import interpreter
from locara_sidecar.models import worker
from locara_sidecar.models.updates import not_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.methods import Need
    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.daemon.engine_host.program import Program

log = logging.getLogger("locara.models")

_ENDING_SECONDS = 1.0
_TRIES = 3
_PHASES = get_args(DownloadPhase)
"""In the order in which an operation goes through them."""
_NOT_IMPORTED = 1  # the interpreter's status after an exception, which the worker itself reports once it is imported
_NEEDS: dict[str, Need] = {"download": "download", "import": "import", "verify": "model", "derive": "download"}
_BOOT = (
    "import sys; sys.path += [p for p in sys.argv[1:] if p not in sys.path]; "
    "from locara_sidecar.models.worker import main; main()"
)


def _argv() -> list[str]:
    return interpreter.code(_BOOT)


async def run_work(
    grant: Grant, work: worker.WorkerRequest, tell: Callable[[DownloadProgress], None]
) -> worker.WorkerResult:
    """Do the work in a separate process, on behalf of an app.

    :param grant: permission to do this to that model.
    :raises RpcError: as :func:`run_for_user`.
    """
    grant.require(work.entry.id, _NEEDS[work.op])
    return await run_for_user(work, tell)


async def run_for_user(work: worker.WorkerRequest, tell: Callable[[DownloadProgress], None]) -> worker.WorkerResult:
    """Do the work in a separate process, on behalf of the user who owns the cache. Cancelling the caller's task kills
    the process.

    If an update replaced the installation meanwhile, a failure may be its doing, so that another process repeats the
    work, unless a repeat could hide what the first run found (:func:`_can_repeat`).

    :raises RpcError: as the operation does; StorageError with the reason ``updated`` if an update has left nothing that
        the process could be started from, or a version that does not understand this one.
    :raises RuntimeError: if the process dies without a report.
    """
    told = _Told(tell)
    for left in reversed(range(_TRIES)):
        before, began = await _program(), time.time()
        try:
            return await _run(work, told.tell)
        except (RpcError, RuntimeError, msgspec.ValidationError) as error:
            replaced = await off_loop(own_files.settled_since, began, abandon=True)
            now = await _program()
            if left and (replaced or before != now) and _can_repeat(work, error):
                log.warning("a model's worker failed after its files had been replaced (%s); another one begins", error)
                told.again()
            elif not isinstance(error, RpcError) and (replaced or program.was_replaced(now)):
                raise not_ours("it is of another version") from error
            else:
                raise
    raise AssertionError("the last try returns or raises")


def _can_repeat(work: worker.WorkerRequest, error: Exception) -> bool:
    """Whether a second run would begin where the first one did.

    Deriving moves the engine's files as it copies them. Verifying takes damaged files out of use, so a second run would
    find nothing wrong; the sidecar's own models stay as they are.
    """
    if work.op == "derive":
        return False
    if work.op != "verify" or not isinstance(error, RpcError) or error.data.get("reason") == "updated":
        return True
    return work.folder is not None and Path(work.folder).is_relative_to(sys.prefix)


class _Told:
    """Passes on progress; during a repeat, only what goes beyond the first run."""

    def __init__(self, tell: Callable[[DownloadProgress], None]) -> None:
        self._tell = tell
        self._reached = self._known = (0, -1)

    def tell(self, progress: DownloadProgress) -> None:
        point = _PHASES.index(progress.phase), progress.bytes
        if point > self._known:
            self._reached = max(self._reached, point)
            self._tell(progress)

    def again(self) -> None:
        """The work begins anew."""
        self._known = self._reached


async def _program() -> Program | None:
    """Return what processes are started from, after waiting for it if it is just being replaced."""
    return await off_loop(program.find, abandon=True)


async def _run(work: worker.WorkerRequest, tell: Callable[[DownloadProgress], None]) -> worker.WorkerResult:
    try:
        process = await anyio.open_process(
            _argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except (FileNotFoundError, PermissionError) as error:
        raise not_ours("it could not be started") from error
    try:
        assert process.stdin is not None
        with contextlib.suppress(anyio.BrokenResourceError):
            await process.stdin.send(msgspec.json.encode(work) + b"\n")
        return await _listen(process, tell)
    except anyio.get_cancelled_exc_class():
        _kill(process)  # in the middle of its work
        raise
    finally:
        with anyio.CancelScope(shield=True):
            # after its last report it ends by itself. Killing it now would take its exit status away from asyncio,
            # which complains on stderr
            with anyio.move_on_after(_ENDING_SECONDS):
                await process.wait()
            _kill(process)
            await process.aclose()


def _kill(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def _listen(process: anyio.abc.Process, tell: Callable[[DownloadProgress], None]) -> worker.WorkerResult:
    splitter = LineSplitter(worker.MAX_EVENT)
    assert process.stdout is not None
    silent = True
    async for chunk in process.stdout:
        silent = False
        for line in splitter.feed(chunk):
            if isinstance(line, LineTooLong):
                continue
            event: worker.Event = msgspec.json.decode(line, type=worker.Event)
            if isinstance(event, worker.ProgressFrame):
                tell(event.progress)
            elif isinstance(event, worker.WorkerResult):
                return event
            elif event.kind in CODES and not event.trace:
                raise RpcError(event.kind, event.message, retryable=event.retryable, **event.data)
            else:
                log.error("a model's worker failed unexpectedly", extra={"fields": {"trace": event.trace}})
                raise RuntimeError(f"the model's worker failed: {event.trace}")
    status = await process.wait()
    if silent and status == _NOT_IMPORTED:
        raise not_ours("it could not be started")
    raise RuntimeError(f"the model's worker ended without giving a reason (status {status})")
