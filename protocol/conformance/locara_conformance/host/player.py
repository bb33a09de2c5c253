"""``player.py SCENARIO RECORD``: a scenario's sidecar. A client under test spawns it in place of a real one.

Self-contained and standard library only, so that it starts at once in any environment that the client gives it. It
writes what happens to the file RECORD, one JSON object per line: ``started`` (process id), ``received`` (a line from
the host, truncated if it is long, with its ``bytes``), ``eof`` (``rest``: bytes after the last LF), ``signal``,
``exit``, ``lost`` (the host was gone during a step) and ``fault`` (of the scenario, not the host), each with
``seconds`` since the start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn, cast

CANCELS = {"$/cancelRequest", "$/cancel_request", "notifications/cancelled"}
_KEPT = 4000
_SECONDS = 120
"""The maximum duration of a scenario, whatever its host does."""


class HostFault(Exception):
    """The host omitted what the scenario needs."""


class Player:
    """One scenario being played; :meth:`run` returns when there is nothing left to do but wait for the end.

    :param scenario: as in the file, with ``values``, the standard answers.
    :param record: the descriptor to record to.
    """

    def __init__(self, scenario: dict[str, Any], record: int) -> None:
        self._plays: list[dict[str, Any]] = scenario["plays"]
        self._ignores = set(scenario.get("ignores", []))
        self._values: dict[str, Any] = scenario["values"]
        self._record = record
        self._began = time.monotonic()
        self._inbox: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._named: dict[str, dict[str, Any]] = {}
        self._shut = False
        self._reading = True
        self._writing = threading.RLock()
        self._own = {step["receive"] for step in self._plays if "receive" in step}

    def run(self) -> None:
        """Play every step."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._read, daemon=True).start()
        for at, step in enumerate(self._plays):
            verb = next(iter(step))
            try:
                getattr(self, f"_{verb}")(step)
            except (OSError, HostFault) as error:  # the host no longer reads, or omitted something
                self.note(lost=f"step {at}: {error}")
                return

    def note(self, **what: Any) -> None:
        """Write one line of the record."""
        line = json.dumps({"seconds": round(time.monotonic() - self._began, 4), **what})
        os.write(self._record, line.encode() + b"\n")

    def end(self, status: int) -> NoReturn:
        """End the process with that status."""
        self.note(exit=status)
        os._exit(status)

    # --- what the host sends ---

    def _read(self) -> None:
        rest = bytearray()
        while data := os.read(0, 1 << 16):
            while not self._reading:
                time.sleep(0.05)
            first, *more = data.split(b"\n")
            rest += first
            for begun in more:
                self._line(bytes(rest))
                rest = bytearray(begun)
        self.note(eof=True, rest=len(rest))
        if "eof" not in self._ignores:
            self.end(0)

    def _line(self, line: bytes) -> None:
        self.note(received=line[:_KEPT].decode(errors="replace"), bytes=len(line))
        try:
            message = json.loads(line)
        except ValueError:
            return
        for one in cast("list[Any]", message) if isinstance(message, list) else [message]:
            if isinstance(one, dict):
                self._message(cast("dict[str, Any]", one))

    def _message(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method in self._own or (method in CANCELS and "cancel" in self._own):
            with self._news:
                self._inbox.append(message)
                self._news.notify()
        elif method in self._ignores:
            pass
        elif method == "exit":
            self.end(0 if self._shut else 1)
        elif method in {"initialize", "ping", "shutdown"}:
            self._shut = self._shut or method == "shutdown"
            with contextlib.suppress(OSError):
                self._write([self._answered(message, {})])

    def _on_signal(self, number: int, _frame: Any) -> None:
        self.note(signal=signal.Signals(number).name)
        if signal.Signals(number).name not in self._ignores:
            self.end(0)

    # --- the steps ---

    def _receive(self, step: dict[str, Any]) -> None:
        with self._news:
            while (found := next((one for one in self._inbox if self._is(one, step["receive"])), None)) is None:
                self._news.wait()
            self._inbox.remove(found)
        self._named[step.get("as", step["receive"])] = found

    @staticmethod
    def _is(message: dict[str, Any], name: str) -> bool:
        return message.get("method") == name or (name == "cancel" and message.get("method") in CANCELS)

    def _send(self, step: dict[str, Any]) -> None:
        lines = [line for one in step["send"] for line in self._lines(one)]
        self._write(lines, step.get("ending", "\n").encode(), step.get("pieces"), step.get("pauseMs", 0) / 1000)

    def _pause(self, step: dict[str, Any]) -> None:
        time.sleep(step["pause"] / 1000)

    def _stderr(self, step: dict[str, Any]) -> None:
        self._all(2, b"".join(part(one) for one in step["stderr"]))

    def _exit(self, step: dict[str, Any]) -> None:
        self.end(step["exit"])

    def _kill(self, step: dict[str, Any]) -> None:
        self.note(exit=step["kill"])
        signal.signal(signal.Signals[step["kill"]], signal.SIG_DFL) if step["kill"] != "SIGKILL" else None
        os.kill(os.getpid(), signal.Signals[step["kill"]])

    def _close(self, step: dict[str, Any]) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, {"stdin": 0, "stdout": 1, "stderr": 2}[step["close"]])

    def _hold(self, step: dict[str, Any]) -> None:
        self._reading = not step["hold"]

    # --- lines ---

    def _lines(self, one: dict[str, Any]) -> list[bytes]:
        """Return the lines, without their endings, of an entry of ``send``."""
        if "parts" in one:
            return [b"".join(self._part(part) for part in one["parts"])]
        if "message" in one:
            return [self._encoded(self._filled(one["message"]))]
        if "answer" in one:
            return [self._answered(self._named[one["answer"]], one)]
        first = one.get("from", 0)
        return [self._frame(one, index) for index in range(first, first + one.get("count", 1))]

    def _part(self, one: Any) -> bytes:
        if isinstance(one, dict) and "json" in one:
            return self._encoded(self._filled(cast("dict[str, Any]", one)["json"]))
        return part(one)

    def _answered(self, request: dict[str, Any], given: dict[str, Any]) -> bytes:
        """Build a response; without ``result`` and ``error`` it has the method's standard result."""
        answer = {name: given[name] for name in ("result", "error") if name in given}
        standard = self._values["results"].get(request["method"], {})
        answer = answer or {"result": standard | given.get("with", {})}
        return self._encoded({"jsonrpc": "2.0", "id": request.get("id"), **self._filled(answer)})

    def _frame(self, one: dict[str, Any], index: int) -> bytes:
        """Build a channel frame; its message is the standard one unless it has its own or is an end frame."""
        params: dict[str, Any] = {"channel": self._channel(one["frame"]), "index": index}
        if one.get("end"):
            params["end"] = True
        else:
            standard = self._values["message"] | {"step": index, "steps": max(8, index), "elapsedMs": 10 * index}
            params["message"] = standard | self._filled(one.get("with", {}))
        return self._encoded({"jsonrpc": "2.0", "method": one.get("notification", "DiffusionStep"), "params": params})

    def _filled(self, value: Any) -> Any:
        """Replace ``$id``, ``$channel``, ``$cancelled`` (each of a named message) and ``$repeat`` by their values."""
        if isinstance(value, list):
            return [self._filled(one) for one in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        members = cast("dict[str, Any]", value)
        if "$id" in members:
            return self._named[members["$id"]].get("id")
        if "$channel" in members:
            return self._channel(members["$channel"])
        if "$cancelled" in members:
            params: dict[str, Any] = self._named[members["$cancelled"]].get("params") or {}
            return params.get("id", params.get("requestId"))
        if "$repeat" in members:
            return members["$repeat"] * members["times"]
        return {name: self._filled(one) for name, one in members.items()}

    def _channel(self, name: str) -> int:
        params: dict[str, Any] = self._named[name].get("params") or {}
        digits = str(params.get("channel")).removeprefix("__CHANNEL__:")
        if not digits.isdecimal():
            raise HostFault(f"the call {name} was to stream, but names no channel")
        return int(digits)

    @staticmethod
    def _encoded(message: Any) -> bytes:
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    def _write(self, lines: list[bytes], ending: bytes = b"\n", pieces: int | None = None, pause: float = 0) -> None:
        data = b"".join(line + ending for line in lines)
        step = pieces or max(1, len(data))
        with self._writing:
            for at in range(0, len(data), step):
                self._all(1, data[at : at + step])
                time.sleep(pause)

    @staticmethod
    def _all(descriptor: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def part(one: Any) -> bytes:
    """Return the bytes of a part of a line: a string, ``{"hex": …}`` or ``{"repeat": …, "times": …}``."""
    if isinstance(one, str):
        return one.encode()
    return bytes.fromhex(one["hex"]) if "hex" in one else one["repeat"].encode() * one["times"]


def main(scenario: str, record: str) -> NoReturn:
    """Play the scenario in that file; end as it says, or as a sidecar would."""
    assert sys.platform != "win32"
    file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)  # held until this process ends: the harness waits for that
    player = Player(json.loads(Path(scenario).read_text("utf-8")), file)
    player.note(started=os.getpid())
    try:
        player.run()
    except Exception as error:  # noqa: BLE001  recorded, because the harness cannot see it otherwise
        player.note(fault=f"{type(error).__name__}: {error}")
    time.sleep(_SECONDS)
    os._exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
