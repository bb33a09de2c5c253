"""Runs ``models/worker.py`` from the event loop: reports its progress, returns its result or raises its error."""

from __future__ import annotations

import contextlib
import logging
import subprocess
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import msgspec

from locara_protocol.errors import CODES, RpcError
from locara_protocol.framing import LineSplitter, LineTooLong
from locara_sidecar.machine.processes import interpreter
from locara_sidecar.models import worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.methods import Need
    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.capability.authorize import Grant

log = logging.getLogger("locara.models")

_ENDING_SECONDS = 1.0
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

    :raises RpcError: as the operation does; StorageError if an update has left nothing that the process could be
        started from.
    :raises RuntimeError: if the process dies without a report.
    """
    try:
        process = await anyio.open_process(
            _argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except FileNotFoundError as error:
        raise worker.not_ours("could not be started") from error
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
        raise worker.not_ours("could not be started")
    raise RuntimeError(f"the model's worker ended without giving a reason (status {status})")
