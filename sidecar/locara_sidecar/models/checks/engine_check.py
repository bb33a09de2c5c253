"""Asks the machine's engines whether they can draw with a folder, before it becomes an installed model.

An engine answers in a separate process (``engine/checking.py``). One that accepts is enough; if none does, the first
one's reason is reported.
"""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import msgspec

from locara_protocol.errors import RpcError
from locara_sidecar.ipc.errors import wrong_with
from locara_sidecar.ipc.folder_question import Answer, Question
from locara_sidecar.machine import own_files
from locara_sidecar.machine.processes import child_environment, interpreter
from locara_sidecar.machine.processes.scratch import Scratch
from locara_sidecar.models.model_specs import model_spec
from locara_sidecar.models.updates import not_ours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from locara_sidecar.models.catalogue import Entry

_SECONDS = 300.0
"""Importing torch from a cold disk takes up to a minute; opening a folder takes a second."""
_LONGEST = 1 << 20  # bytes of an answer
_BOOT = (
    "import sys; sys.path += [p for p in sys.argv[1:] if p not in sys.path]; "
    "from locara_sidecar.engine.checking import main; main()"
)


def require(engines: Sequence[str], entry: Entry, folder: Path) -> None:
    """Check that one of ``engines`` can draw the model of ``entry`` with the files in ``folder``. With no engine,
    or none that starts here, nothing is checked.

    :raises RpcError: ModelIncomplete or IntegrityError naming the file; EngineUnavailable for a family or a scheduler
        that the engine does not support, listing those that it does; StorageError with the reason ``updated`` if an
        update has taken the engine's files away.
    """
    first: Answer | None = None
    for engine in engines:
        answer = _asked(engine, entry, folder)
        if answer.kind is None and answer.available:
            return
        first = first or (answer if answer.available else None)
    if first is not None and first.kind is not None:
        if not first.message or wrong_with(first.kind, first.message, first.data) is not None:
            raise RpcError("IntegrityError", "The engine that checked the model's files gave no usable answer.")
        raise RpcError(first.kind, first.message, **first.data)


def _asked(engine: str, entry: Entry, folder: Path) -> Answer:
    scratch = Scratch()
    question = Question(
        engine=engine,
        model=model_spec(entry, folder=str(folder), digest=""),
        scheduler=entry.defaults.scheduler,
        width=entry.defaults.width,
        height=entry.defaults.height,
        scratch=scratch.path,
    )
    try:
        process = subprocess.Popen(
            interpreter.code(_BOOT),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment.of_engine(),
        )
    except OSError as error:
        scratch.discard()
        if own_files.is_of_ours(error):
            raise not_ours(f"the {engine} engine could not be started") from error
        raise
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        # stdin stays open meanwhile: if it closes because this process was killed, the other process ends
        process.stdin.write(msgspec.json.encode(question) + b"\n")
        process.stdin.flush()
        line = _line_of(process)
    except OSError:
        line = b""
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        scratch.discard()
    if not line and own_files.are_replaced():
        raise not_ours(f"the {engine} engine's process ended")
    if not line:
        message = f"The {engine} engine's process ended while it opened the model."
        return Answer(kind="IntegrityError", message=message, data={"files": []})
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Answer(kind="InternalError", message="")  # none of our engines reports that


def _line_of(process: subprocess.Popen[bytes]) -> bytes:
    """Return the answer; nothing if the process ends or takes too long."""
    assert process.stdout is not None
    timer = threading.Timer(_SECONDS, process.kill)
    timer.start()
    try:
        return process.stdout.readline(_LONGEST)
    finally:
        timer.cancel()
