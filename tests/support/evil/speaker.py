"""The evil engine that lies: a process that speaks a worker's frames, and once sends or writes what it is ordered to.

It is not sandboxed: the daemon has to judge what it sends and writes. A file says what it does with its next job. It
handles the jobs after that honestly, which shows whether the daemon still works.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_sidecar.ipc import frames, framing
from support.engine_frames import done_with, enter, finish, ready
from support.evil import making
from support.evil.lies import BYTES, DENIALS, FLOODS, LIES, PREPARED, STARTS, Pipe, event_of_lists, failed, framed

if TYPE_CHECKING:
    from collections.abc import Callable

ENDLESS: dict[str, Callable[[frames.JobSpec], bytes]] = {
    "a flood that never ends": lambda spec: framing.encode(frames.Heartbeat(job=spec.job)) * 1000,
    "log records of lists that never end": lambda _: framed(event_of_lists(15_000, "log")),
    "another job's failures of lists that never end": lambda _: framed(
        event_of_lists(60_000, "failed", job="x", kind="x")
    ),
}
_TESTS = Path(__file__).parents[2]
_BOOT = "import sys; sys.path += sys.argv[2:]; from support.evil.speaker import main; main(sys.argv[1])"


def argv(control: Path) -> list[str]:
    """Return the command that runs one. :param control: the file with its orders."""
    return [sys.executable, "-c", _BOOT, str(control), str(_TESTS), *filter(None, sys.path)]


def told(folder: Path, act: str) -> Path:
    """Write a file with an order: do ``act`` with the next job, or at the start."""
    control = folder / "act"
    control.write_text(act)
    return control


class Speaker:
    """One engine."""

    def __init__(self, control: str) -> None:
        self._control = control
        self._pipe = Pipe()

    def main(self) -> None:
        """Serve until the pipe closes."""
        self._pipe.raw(framing.PREAMBLE)
        reader = framing.FrameReader()
        while data := os.read(0, 1 << 16):
            for body in reader.feed(data):
                command = framing.decode_command(body)
                match command:
                    case frames.Start():
                        lie = STARTS[self._order()] if self._order(keep=True) in STARTS else {}
                        self._pipe.say(ready(command, **lie))
                    case frames.Generate():
                        self._draw(command.spec, self._order())
                    case frames.Prepare():
                        self._prepare(command.spec, self._order())
                    case frames.Cancel(job=job):
                        self._pipe.say(frames.Cancelled(job=job))
                    case frames.Exit():
                        return
                    case _:
                        pass

    def _order(self, *, keep: bool = False) -> str:
        try:
            with open(self._control) as file:
                order = file.read()
            if not keep:
                os.unlink(self._control)
        except FileNotFoundError:
            return ""
        return order

    def _draw(self, spec: frames.JobSpec, order: str) -> None:
        pipe = self._pipe
        if order in LIES:
            enter(pipe, spec)
            pipe.say(*LIES[order](spec), done_with(spec))
        elif order in DENIALS:
            pipe.say(failed(spec, kind=order, declare={"models": ["*"]}, url="https://evil.example"))
        elif order in BYTES:
            BYTES[order](pipe, spec)
        elif order in ENDLESS:
            frame = ENDLESS[order](spec)
            while True:
                pipe.raw(frame)
        else:
            if order in FLOODS:
                FLOODS[order](pipe, spec)
            finish(pipe, spec)

    def _prepare(self, spec: frames.PrepareSpec, order: str) -> None:
        made = making.honest(Path(spec.into))
        said: dict[str, Any] = {"quantization": "8bit", "precision": "float32", "components": ["transformer"]}
        if order in PREPARED:
            said |= PREPARED[order][1]
        elif order in making.MADE:
            making.MADE[order](made, making.secret_beside(self._control))
        elif order in making.DURING:
            threading.Thread(target=making.DURING[order], args=(made, making.secret_beside(self._control))).start()
        self._pipe.say(frames.Prepared(job=spec.job, **said))


def main(control: str) -> None:
    """Run a worker's process."""
    Speaker(control).main()
