"""One job of the engine's client: its command, progress and outcome, and the files it needs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from locara_sidecar.ipc import frames
from locara_sidecar.machine.processes.trees import files_below

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JobEvent = frames.PhaseStarted | frames.Step | frames.Image
"""What is reported while a job runs."""

Command = frames.Generate | frames.Load | frames.Prepare
Result = frames.Done | frames.Loaded | frames.Prepared


class Request:
    """A command for the engine, and the caller that waits for its result.

    :param on_event: called on the loop with what the engine reports, in order.
    """

    def __init__(self, command: Command, on_event: Callable[[JobEvent], None]) -> None:
        self.command = command
        self.spec = command.spec
        self.abandoned = False  # nobody waits for it any more; the engine still has to stop
        self.phase = "loading"
        self.ended = asyncio.Event()
        self._on_event = on_event
        self._result: Result | Exception | None = None

    def report(self, event: JobEvent) -> bool:
        """Report to the caller. Return False if that failed: then the job must stop, and ends with that error."""
        if self.abandoned or self._result is not None:
            return True
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001  result() raises it, once the engine has stopped
            self._result = error
            return False
        return True

    def answer(self, result: Result | Exception) -> None:
        """End the request; the first result counts."""
        if self._result is None:
            self._result = result
        self.ended.set()

    def result(self) -> Result:
        """Return what it ended with, or raise it."""
        if isinstance(self._result, Exception):
            raise self._result
        assert self._result is not None
        return self._result


def writes_to(spec: frames.AnySpec) -> str | None:
    """Return the folder that a job writes to besides its engine's scratch folder."""
    return spec.into if isinstance(spec, frames.PrepareSpec) else None


def model_files(folder: Path) -> list[str]:
    """Return what must be readable to load a model: its folder, and the files that its links lead to.

    A hub's own cache consists of such links; permission to read the folder alone would not cover their targets.
    """
    real = os.path.realpath(folder)
    targets = [os.path.realpath(path) for path in files_below(real) if os.path.islink(path)]
    return list(dict.fromkeys([real, *(target for target in targets if not target.startswith(f"{real}{os.sep}"))]))
