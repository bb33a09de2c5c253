"""``python -m locara_sidecar.engine.checking``: whether an engine can open a model's folder, found out by opening it.

A process of its own, confined like an engine before it looks at a file that nobody has looked at: a folder is checked
before it is installed. stdin: one line with a :class:`Question`; then the end of stdin is the end of the process.
stdout: one line with an :class:`Answer`. No weights are read.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, cast

import msgspec

from locara_sidecar.engine import ending, sandbox
from locara_sidecar.engine.runtime import create
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.ipc.folder_question import Answer, Question
from locara_sidecar.ipc.frames import ModelSpec, Sides

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.staged import StagedRuntime

_LINE = 1 << 16
_SIDES = Sides(minimum=64, maximum=2048, multiple_of=8, max_pixels=1 << 22)
"""Nothing is drawn; the largest picture decides only which part of a table is kept."""


class _Uncancelled:
    """The control of something that nobody cancels: the process is ended instead."""

    def checkpoint(self) -> None:
        pass


def ask(runtime: StagedRuntime, question: Question) -> Answer:
    """Have ``runtime`` open the folder as a job would; nothing of it stays open."""
    spec = ModelSpec(
        id=os.path.basename(question.folder),
        version="",
        digest="",
        family=question.family,
        path=question.folder,
        max_sequence_length=1,
        quantization="auto",
        precision="auto",
        sides=_SIDES,
    )
    try:
        runtime.warm.check(spec, question.scheduler, _Uncancelled(), (question.width, question.height))
    except EngineError as fault:
        return Answer(kind=fault.kind, message=fault.message, data=fault.data)
    return Answer()


def main() -> None:
    """Answer one question and exit."""
    ending.die_with_parent()
    out = os.dup(1)
    os.dup2(2, 1)  # nothing that a library prints may come before the answer
    question = msgspec.json.decode(sys.stdin.buffer.readline(_LINE), type=Question)
    sandbox.confine(question.scratch, [question.folder])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        # whoever asks names an engine that opens folders
        runtime = cast("StagedRuntime", create(question.engine, question.scratch, {}))
    except (ImportError, OSError):
        answer = Answer(available=False)
    else:
        answer = ask(runtime, question)
    os.write(out, msgspec.json.encode(answer) + b"\n")
    os._exit(0)


def _end_with_stdin() -> None:
    while os.read(0, _LINE):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
