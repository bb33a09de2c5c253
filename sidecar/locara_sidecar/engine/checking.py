"""``python -m locara_sidecar.engine.checking``: check whether an engine can open a model's folder by opening it.

A folder is checked before it is installed, so the process is confined like an engine before it reads any of the
untrusted files. stdin: one line with a :class:`Question`; the process ends when stdin closes. stdout: one line with an
:class:`Answer`. No weights are read.
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

if TYPE_CHECKING:
    from locara_sidecar.engine.drawing.staged import StagedRuntime

_LINE = 1 << 16


class _Uncancelled:
    """A control that is never cancelled: the process is killed instead."""

    def checkpoint(self) -> None:
        pass


def ask(runtime: StagedRuntime, question: Question) -> Answer:
    """Let ``runtime`` open the folder as it would for a job, then close it."""
    try:
        runtime.warm.check(question.model, question.scheduler, _Uncancelled(), (question.width, question.height))
    except EngineError as fault:
        return Answer(kind=fault.kind, message=fault.message, data=fault.data)
    return Answer()


def main() -> None:
    """Answer one question and exit."""
    ending.die_with_parent()
    out = os.dup(1)
    os.dup2(2, 1)  # nothing that a library prints may precede the answer
    question = msgspec.json.decode(sys.stdin.buffer.readline(_LINE), type=Question)
    sandbox.confine(question.scratch, [question.model.path])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        # callers only name engines that open folders
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
