"""Reads the language-neutral fixtures (format: fixtures/README.md) and replays them.

Two ways: :func:`answer_in_process` is a router of twenty lines over the protocol package, and
:class:`Session` pipes the same bytes to a sidecar process and reads what it answers.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locara_protocol.errors import RpcError
from locara_protocol.framing import DEFAULT_MAX_LINE_BYTES, LineSplitter, LineTooLong
from locara_protocol.jsonrpc import (
    Batch,
    Invalid,
    Notification,
    Request,
    decode_line,
    decode_params,
    encode_batch,
    encode_error,
    encode_result,
    line_too_long,
)
from locara_protocol.methods import METHODS

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "jsonrpc"
INITIALIZE = {"protocolVersion": 1, "clientInfo": {"name": "replay", "version": "1"}}


@dataclass(frozen=True)
class Case:
    """One case: lines to send, and the answers that must come back."""

    name: str
    description: str
    lines: list[str | dict[str, Any]]
    expect: list[Any]
    initialized: bool
    any_order: bool
    needs: str
    """``protocol`` if the protocol package alone can answer it, ``sidecar`` if it takes a process."""
    last: bool
    """Whether the session is over after this case."""

    @property
    def send(self) -> bytes:
        """The bytes to send, line endings included; made anew each time, because some are large."""
        return b"".join(expand(line) for line in self.lines)


def load_cases(folder: Path = FIXTURES) -> list[Case]:
    """All cases of a folder, in the order of the file names and then of the files."""
    cases: list[Case] = []
    for path in sorted(folder.glob("*.json")):
        for number, case in enumerate(json.loads(path.read_text("utf-8")), 1):
            unknown = case.keys() - {"description", "send", "expect", "initialized", "anyOrder", "needs", "last"}
            assert not unknown, f"{path.name}: unknown member {unknown}"
            cases.append(
                Case(
                    name=f"{path.stem}-{number:02}",
                    description=case["description"],
                    lines=case["send"],
                    expect=case["expect"],
                    initialized=case.get("initialized", False),
                    any_order=case.get("anyOrder", False),
                    needs=case.get("needs", "protocol"),
                    last=case.get("last", False),
                )
            )
    return cases


def expand(line: str | dict[str, Any]) -> bytes:
    """The bytes of one sent line, with its ending."""
    if isinstance(line, str):
        return line.encode() + b"\n"
    ending = line.get("ending", "\n").encode()
    return b"".join(_part(part) for part in line["parts"]) + ending


def _part(part: str | dict[str, Any]) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if "hex" in part:
        return bytes.fromhex(part["hex"])
    return part["repeat"].encode() * part["times"]


# --- matching --------------------------------------------------------------------------------


def matches(expected: Any, actual: Any) -> bool:
    """Whether ``actual`` is what is expected: objects may have more members, all else is equal.

    ``1`` is neither ``1.0`` nor ``true``; ``{"$absent": true}`` stands for a member that must not be there.
    """
    if isinstance(expected, dict):
        if expected == {"$absent": True}:
            return False
        if not isinstance(actual, dict):
            return False
        return all(
            name not in actual if member == {"$absent": True} else name in actual and matches(member, actual[name])
            for name, member in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(actual, list)
            and len(expected) == len(actual)
            and all(matches(one, other) for one, other in zip(expected, actual, strict=True))
        )
    return type(expected) is type(actual) and expected == actual


def problem(case: Case, answers: list[Any]) -> str | None:
    """What is wrong with the answers to a case, or None."""
    if case.any_order:
        expected = [sorted_batch(one) for one in case.expect]
        left = [sorted_batch(one) for one in answers]
        for one in expected:
            found = next((index for index, other in enumerate(left) if matches(one, other)), None)
            if found is None:
                return f"{case.name}: no answer like {one} in {left}"
            del left[found]
        return f"{case.name}: unexpected {left}" if left else None
    return None if matches(case.expect, answers) else f"{case.name}: expected {case.expect}, got {answers}"


def sorted_batch(answer: Any) -> Any:
    """An answer array in an order of its own, by id, so that concurrent entries compare."""
    if not isinstance(answer, list):
        return answer
    return sorted(answer, key=lambda one: json.dumps(one.get("id") if isinstance(one, dict) else None))


# --- in process ------------------------------------------------------------------------------


def answer_in_process(case: Case) -> list[Any]:
    """The answers that the protocol package gives by itself; a served request has the result ``{}``."""
    splitter = LineSplitter(DEFAULT_MAX_LINE_BYTES)
    answers: list[bytes] = []
    for line in [*splitter.feed(case.send), *splitter.finish()]:
        decoded = line_too_long(line.max_line_bytes) if isinstance(line, LineTooLong) else decode_line(line)
        if isinstance(decoded, Batch):
            some = [answer for entry in decoded.entries if (answer := _answer(entry, case, in_batch=True))]
            answers += [encode_batch(some)] if some else []
        elif answer := _answer(decoded, case, in_batch=False):
            answers.append(answer)
    assert all(b"\n" not in answer and b"\r" not in answer for answer in answers)
    return [json.loads(answer) for answer in answers]


def _answer(entry: Any, case: Case, *, in_batch: bool) -> bytes | None:
    if isinstance(entry, Invalid):
        return encode_error(entry.id, entry.error)
    if in_batch and isinstance(entry, Notification) and entry.method == "exit":
        return encode_error(None, RpcError("InvalidRequest", "Not in a batch."))
    if not isinstance(entry, Request):
        return None
    try:
        method = METHODS.get(entry.method)
        if in_batch and method is not None and not method.in_batch:
            raise RpcError("InvalidRequest", "Not in a batch.")
        if not case.initialized and not (method is not None and method.before_initialize):
            raise RpcError("NotInitialized", "Not initialized.")
        if method is None:
            raise RpcError("MethodNotFound", "Unknown method.")
        decode_params(method.params, entry.params)
    except RpcError as error:
        return encode_error(entry.id, error)
    return encode_result(entry.id, {})


# --- with a process --------------------------------------------------------------------------


def replay(command: list[str], cases: list[Case], **popen: Any) -> list[str]:
    """Pipes cases to one process for as long as they share its state; returns what was wrong."""
    problems: list[str] = []
    session: Session | None = None
    state: bool | None = None
    try:
        for case in sorted(cases, key=lambda case: case.initialized):
            if session is None or state is not case.initialized:
                if session is not None:
                    session.close()
                session, state = Session(command, initialized=case.initialized, **popen), case.initialized
            try:
                wrong = problem(case, session.play(case))
            except (AssertionError, OSError) as error:
                wrong = f"{case.name}: {error}"
            if wrong is not None:
                problems.append(f"{wrong} ({case.description})")
            if case.last or wrong is not None:
                session.close()
                session = None
    finally:
        if session is not None:
            session.close()
    return problems


class Session:
    """A sidecar process that cases are piped to, one after the other.

    :param command: what to run; :param initialized: whether to send ``initialize`` first.
    """

    def __init__(self, command: list[str], *, initialized: bool, timeout: float = 20.0, **popen: Any) -> None:
        self._timeout = timeout
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._probe = 0
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **popen)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if initialized:
            request = {"jsonrpc": "2.0", "id": "replay-initialize", "method": "initialize", "params": INITIALIZE}
            self._write(json.dumps(request).encode() + b"\n")
            answer = self._next(time.monotonic() + timeout)
            assert isinstance(answer, dict), answer
            assert "result" in answer, answer

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def play(self, case: Case) -> list[Any]:
        """Sends a case and returns its answers, notifications left out.

        When as many answers came as are expected, a ping that is answered after all that was read
        before shows that no further one is on its way.
        """
        deadline = time.monotonic() + self._timeout
        self._write(case.send)
        answers: list[Any] = []
        while len(answers) < len(case.expect):
            answer = self._next(deadline)
            if answer is None:
                return answers
            answers.append(answer)
        if case.last:
            return answers
        self._probe += 1
        probe = f"replay-probe-{self._probe}"
        self._write(json.dumps({"jsonrpc": "2.0", "id": probe, "method": "ping"}).encode() + b"\n")
        while (answer := self._next(deadline)) is not None:
            if isinstance(answer, dict) and answer.get("id") == probe:
                return answers
            answers.append(answer)
        raise AssertionError(f"{case.name}: the process did not answer a ping after this case")

    def close(self) -> int:
        """Ends the input, waits (kills, if need be), and returns the exit status."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            status = self.process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(self._timeout)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        rest = memoryview(data)
        while rest:
            rest = rest[self.process.stdin.write(rest) :]

    def _read(self) -> None:
        splitter = LineSplitter()
        assert self.process.stdout is not None
        while data := self.process.stdout.read(65536):
            for line in splitter.feed(data):
                self._lines.put(line if isinstance(line, bytes) else b'"line too long"')
        self._lines.put(None)

    def _next(self, deadline: float) -> Any:
        """The next answer, or None at the end of the output or when time is up."""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                return None
            message = json.loads(line)
            if not (isinstance(message, dict) and "method" in message):
                return message
