"""Hosts that stop reading, endless lines, foreign bytes on stdout, JSON made to break the reader. Linux only."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import subprocess
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from campaigns.session import NOISE, command, environment, line, opening, resident
from locara_protocol import jsonrpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
_ANSWER_SECONDS = 30.0


class Wire:
    """A spawned daemon as two pipes: bytes in from one thread, lines out from another."""

    def __init__(self, *flags: str, plant: str = "", **milliseconds: int) -> None:
        self.process = subprocess.Popen(
            command(*flags, plant=plant),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(**milliseconds),
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._out = self.process.stdin.fileno()
        self._in = self.process.stdout.fileno()
        self._rest = b""
        self._whole: deque[bytes] = deque()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, data: bytes) -> None:
        """Write all of ``data``; blocks while the daemon does not read."""
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._out, view) :]

    def lines(self) -> Iterator[bytes]:
        """Yield each line as it arrives; ends after a long silence, or when the daemon has exited."""
        while True:
            while self._whole:
                yield self._whole.popleft()
            if not select.select([self._in], [], [], _ANSWER_SECONDS)[0] or not (data := os.read(self._in, MIB)):
                return
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._whole.extend(whole)

    def settled(self) -> int:
        """Resident bytes once the daemon serves from its event loop: the very first answer comes before that."""
        for name in ("first", "second"):
            self.send(line(name, "ping"))
            self.until(name)
        return resident(self.process.pid)

    def until(self, request_id: int | str) -> list[bytes] | None:
        """Return the lines up to and including the answer to a request; None if it does not come."""
        seen: list[bytes] = []
        mark = b'"id":' + json.dumps(request_id).encode()
        for one in self.lines():
            seen.append(one)
            if mark in one and json.loads(one).get("id") == request_id:
                return seen
        return None


# --- a host that stops reading ----------------------------------------------------------------


def stop_reading(folder: Path, plant: str = "", *, jobs: int = 3, count: int = 4) -> tuple[float, list[str]]:
    """Play a host that reads nothing while jobs with large previews run; return MiB of growth, and what was wrong."""
    wrong: list[str] = []
    options = {
        "model": "sd3.5-medium",
        "width": 1024,
        "height": 1024,
        "steps": 200,
        "count": count,
        "preview": {"maxBytes": 40960, "mimeType": "image/png"},
        "output": {"mimeType": "image/jpeg"},
    }
    with Wire(plant=plant, step=4) as wire:
        wire.send(line("open", "initialize", opening(folder)))
        wire.until("open")
        before = wire.settled()
        for job in range(jobs):
            wire.send(line(job, "image.generate", {"prompt": "a lake", "channel": job, "options": options}))
        deadline = time.monotonic() + 60 * jobs
        while len(list(folder.iterdir())) < jobs * count and time.monotonic() < deadline:
            time.sleep(0.05)
        grown = (resident(wire.process.pid, "VmHWM") - before) / MIB
        wire.send(line("last", "ping"))
        seen = [json.loads(one) for one in wire.until("last") or []]
        for job in range(jobs):  # answers overtake other calls' frames: all have been written by now or come next
            if not any(one.get("id") == job for one in seen):
                seen += [json.loads(one) for one in wire.until(job) or []]
    for job in range(jobs):
        frames = [one["params"] for one in seen if one.get("params", {}).get("channel") == job]
        if [frame["index"] for frame in frames] != list(range(len(frames))) or not frames or not frames[-1].get("end"):
            wrong.append(f"job {job}: {[frame['index'] for frame in frames]}")
        if not any(one.get("id") == job and "result" in one for one in seen):
            wrong.append(f"the result of job {job} was lost")
    for path in folder.iterdir():
        path.unlink()
    return grown, wrong


def only_write(count: int, plant: str = "") -> tuple[float, list[str]]:
    """Play a host that pipelines pings and reads nothing for two seconds; return MiB of growth, and what was wrong."""
    with Wire(plant=plant) as wire:
        before = wire.settled()
        pings = b"".join(line(number, "ping") for number in range(count))
        writer = threading.Thread(target=wire.send, args=(pings,), daemon=True)
        writer.start()
        writer.join(2 + count / 100_000)
        grown = (resident(wire.process.pid, "VmHWM") - before) / MIB
        seen = wire.until(count - 1)
    right = seen is not None and [json.loads(one)["id"] for one in seen] == list(range(count))
    return grown, [] if right else [f"{0 if seen is None else len(seen)} of {count} answered, or not in order"]


# --- lines without end ------------------------------------------------------------------------


def long_lines(most: int, *flags: str) -> Iterator[tuple[str, float, bool]]:
    """Lines of doubling sizes up to ``most`` bytes, and deep ones: name, MiB of growth, whether all were answered."""
    shapes = {"text": b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * MIB, "deep": b"[" * MIB, "objects": b"{}," * MIB}
    with Wire(*flags) as wire:
        before = wire.settled()
        size, number = 8 * MIB, 0
        while size <= most:
            for name, piece in shapes.items():
                number += 1
                for _ in range(size // len(piece)):
                    wire.send(piece)
                wire.send(b"\n" + line(f"after {number}", "ping"))
                answers = wire.until(f"after {number}")
                grown = (resident(wire.process.pid, "VmHWM") - before) / MIB
                yield f"{size // MIB} MiB of {name}", grown, answers is not None and len(answers) == 2
                if answers is None:
                    return
            size *= 2


# --- foreign bytes ----------------------------------------------------------------------------


def shout(folder: Path, jobs: int, plant: str = "") -> tuple[int, int]:
    """Print in a daemon and its engine in every possible way; return the lines on stdout, and those that are not
    messages.
    """
    foreign = total = 0
    with Wire(plant=f"{plant}\n{NOISE}", step=1) as wire:
        wire.send(line("open", "initialize", opening(folder)))
        for job in range(jobs):
            params = {"prompt": "fake:stderr x", "channel": 1, "options": {"steps": 4}}
            wire.send(line(job, "image.generate", params))
            for one in wire.until(job) or [b"nothing at all"]:
                total += 1
                try:
                    foreign += json.loads(one).get("jsonrpc") != "2.0"
                except (ValueError, AttributeError):
                    foreign += 1
    for path in folder.iterdir():
        path.unlink()
    return total, foreign


# --- hostile JSON -----------------------------------------------------------------------------

_PIECES = [
    *('{', '}', '[', ']', ',', ':', '"', '\\', '\\ud83d', 'é', '😀', '\t', '\x01', '\ufeff', '0', '-', '1e999', 'NaN'),
    *('true', 'null', '"jsonrpc":"2.0"', '"id":1', '"id":"a"', '"method":"ping"', '"params":{}', '"params":[]', '{}'),
    *('"result":1', '"channel":7', '"__CHANNEL__:1"', '"options":{"steps":1e3}', '\u2028', '9' * 30, '[' * 70),
]  # fmt: skip
_METHODS = ("ping", "jobs.list", "image.generate", "image.cancel", "initialize", "system.info", "models.get", "$/x", "")
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**53,
    "",
    "x" * 300,
    [],
    {},
    [1],
    {"a": [None]},
    "\ud800",
    "pocket",
)
_MEMBERS = ("prompt", "channel", "options", "model", "jobId", "_meta", "manifest", "grants", "protocolVersion", "id")


def hostile_line(chance: random.Random) -> bytes:
    """One line (no LF in it) that is wrong in some way, or nearly right."""
    way = chance.randrange(5)
    if way == 0:
        return chance.randbytes(chance.randrange(1, 60)).replace(b"\n", b"").replace(b"\r", b"")
    if way == 1:
        return "".join(chance.choices(_PIECES, k=chance.randrange(1, 12))).encode()
    params = {chance.choice(_MEMBERS): chance.choice(_VALUES) for _ in range(chance.randrange(4))}
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": chance.randrange(1000), "method": chance.choice(_METHODS)}
    message["params"] = params
    if way == 2:
        message[chance.choice((*message, "extra"))] = chance.choice(_VALUES)
    whole: Any = [message] * chance.choice((1, 2, 3, 70)) if chance.random() < 0.1 else message
    data = json.dumps(whole).encode()
    if way == 3:
        place = chance.randrange(len(data))
        data = data[:place] + chance.randbytes(chance.randrange(3)) + data[place + chance.randrange(3) :]
    return data.replace(b"\n", b"").replace(b"\r", b"")


def expected(data: bytes) -> Counter[str]:
    """Which answers a line must get, as :func:`_kind_of` names them; the protocol's own decoder says so."""
    if not data.strip():
        return Counter()
    decoded = jsonrpc.decode_line(data)
    entries = decoded.entries if isinstance(decoded, jsonrpc.Batch) else [decoded]
    ids = [json.dumps(entry.id) for entry in entries if isinstance(entry, jsonrpc.Request | jsonrpc.Invalid)]
    if isinstance(decoded, jsonrpc.Batch):
        return Counter([" ".join(sorted(ids))] if ids else [])
    return Counter(ids)


def _kind_of(answer: bytes) -> str:
    message = json.loads(answer)
    if isinstance(message, list):
        return " ".join(sorted(json.dumps(one["id"]) for one in message))
    return json.dumps(message["id"])


def hostile_json(count: int, seed: int, plant: str = "") -> tuple[int, list[str]]:
    """Pipe that many hostile lines; return how many were sent, and where the daemon died, hung or owed an answer."""
    chance = random.Random(seed)
    wrong: list[str] = []
    sent = 0
    with Wire(plant=plant) as wire:
        while sent < count and not wrong:
            block = [hostile_line(chance) for _ in range(min(500, count - sent))]
            sent += len(block)
            mark = f"after {sent}"
            data = b"".join(one + b"\n" for one in block) + line(mark, "ping")
            writer = threading.Thread(target=wire.send, args=(data,), daemon=True)
            writer.start()
            answers = wire.until(mark)
            if answers is None:
                wrong.append(f"seed {seed}, line {sent}: no answer within {_ANSWER_SECONDS:g} s")
                break
            writer.join()
            due: Counter[str] = sum((expected(one) for one in block), Counter())
            got = Counter(map(_kind_of, answers[:-1]))
            if got != due:
                wrong.append(f"seed {seed}, before line {sent}: owed {due - got}, unasked {got - due}")
    return sent, wrong
