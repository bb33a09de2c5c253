"""Runs ``models/worker.py`` from the event loop: reports its progress, returns its result or raises its error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec

from locara_protocol.errors import RpcError
from locara_protocol.model_messages import DownloadPhase
from locara_sidecar.daemon.engine_host import program
from locara_sidecar.daemon.engine_host.repeats import OnlyNew
from locara_sidecar.daemon.model_methods.worker_process import WorkerProcess
from locara_sidecar.machine.processes import interpreter
from locara_sidecar.models.updates import not_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_protocol.methods import Need
    from locara_protocol.model_messages import DownloadProgress
    from locara_sidecar.capability.authorize import Grant
    from locara_sidecar.models import worker

log = logging.getLogger("locara.models")

_TRIES = 3
_PHASES = get_args(DownloadPhase)
"""In the order in which an operation goes through them."""
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
    :raises OSError: if the system refuses a thread or a process.
    """
    new = OnlyNew(tell, lambda progress: (_PHASES.index(progress.phase), progress.bytes), (0, -1))
    for left in reversed(range(_TRIES)):
        process = WorkerProcess(_argv, work, new.report)
        try:
            return await process.result()
        except (RpcError, RuntimeError, msgspec.ValidationError) as error:
            await process.looked()
            now = process.after
            if left and (process.replaced or process.before != now) and _can_repeat(work, error):
                log.warning("a model's worker failed after its files had been replaced (%s); another one begins", error)
                new.repeat()
            elif not isinstance(error, RpcError) and (process.replaced or program.was_replaced(now)):
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
