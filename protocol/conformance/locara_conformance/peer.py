"""One process of the implementation: its pipes, what crossed them, and ways to wait for something."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, cast

from locara_conformance.call import Call
from locara_conformance.outcomes import Event, Failed, HarnessFault
from locara_conformance.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from locara_conformance.validator import Schemas

_TEXT = 1200
_LONGEST = 64 << 20
"""No more of a line is kept than this, in bytes: it exceeds every message of the contract, even a batch's answers."""
_EVENTS = 4000


class Peer:
    """Spawns the command with pipes and reads everything that it writes.

    :param number: of the process within its check, for the record.
    :param log: the file for its stderr.
    :param timeout: seconds to wait for an answer, unless a check says otherwise.
    :param report: called with what the watch finds: the check's id, a sentence, and this peer.
    :param nonblocking: whether the child's ends of its pipes are non-blocking from the start.
    :param unread_stderr: whether its stderr is a pipe that nobody reads, instead of ``log``.
    :param inherited: descriptors that it gets in addition to its pipes.
    :raises HarnessFault: if the command cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        number: int,
        log: Path,
        timeout: float,
        schemas: Schemas,
        report: Callable[[str, str, Peer], None],
        env: Mapping[str, str] | None = None,
        nonblocking: bool = False,
        unread_stderr: bool = False,
        inherited: Sequence[int] = (),
    ) -> None:
        self.number, self.timeout, self.schemas = number, timeout, schemas
        self.events: list[Event] = []
        self.inbox: list[Any] = []
        """Every message received, in order: objects, and arrays for batches."""
        self.log = log
        self._ids, self._channels, self._probes = itertools.count(1), itertools.count(1), itertools.count(1)
        self._news = threading.Condition(threading.RLock())
        self._watch = Watch(schemas, lambda id, sentence: report(id, sentence, self))
        self._paused = threading.Event()
        self._paused.set()
        self.watched = True
        """Whether the watch judges what arrives."""
        self.may_be_cut = False
        """Whether its last line may be incomplete: it was killed, or its host did not read."""
        self.closed = False
        """Whether the output has ended."""
        self.endless = False
        """Whether it wrote a line that is longer than any message; nothing is read after that."""
        self.fault = ""
        """Why the harness cannot judge what arrives."""
        self._began = time.monotonic()
        theirs_in, self.stdin = os.pipe()
        self._stdout, theirs_out = os.pipe()
        self.child_ends: list[int] = [os.dup(theirs_in), os.dup(theirs_out)] if nonblocking else []
        if sys.platform != "win32":
            for fd in self.child_ends:
                os.set_blocking(fd, False)
        try:
            with log.open("ab") as stderr:
                self.process = subprocess.Popen(
                    list(command),
                    stdin=theirs_in,
                    stdout=theirs_out,
                    stderr=subprocess.PIPE if unread_stderr else stderr,
                    env=env,
                    pass_fds=tuple(inherited),
                    start_new_session=True,
                )
        except OSError as error:
            raise HarnessFault(f"the command cannot be started: {error}") from error
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        if nonblocking:
            os.close(self.child_ends.pop())  # or the end of the output would never be seen
        if sys.platform != "win32":
            os.set_blocking(self.stdin, False)
        self._reader = threading.Thread(target=self._read, daemon=True, name="conformance-reader")
        self._reader.start()

    # --- sending ---

    def send(self, message: Any) -> None:
        """Send a message, or a batch."""
        self.send_line(json.dumps(message, ensure_ascii=False).encode())

    def send_line(self, line: bytes, ending: bytes = b"\n", *, pieces: Sequence[int] = ()) -> None:
        """Send arbitrary bytes as a line; ``pieces`` are the positions at which the host pauses.

        :raises Failed: if the process does not take it in time, or is gone.
        """
        with self._news:
            self._watch.sent(line)
            self._record("→", line)
        start = 0
        for place in pieces:
            self.write(line[start:place])
            time.sleep(0.05)
            start = place
        self.write((line[start:] if start else line) + ending)

    def write(self, data: bytes) -> None:
        """Write raw bytes, which are not recorded."""
        until = time.monotonic() + max(20.0, self.timeout)
        rest = memoryview(data)
        while rest:
            _, ready, _ = select.select([], [self.stdin], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise Failed(f"it stopped taking input ({len(rest)} bytes left to write)")
            try:
                rest = rest[os.write(self.stdin, rest) :]
            except BlockingIOError:
                time.sleep(0.005)
            except OSError as error:
                raise Failed(f"it closed its input{self._status()}") from error

    def start(self, method: str, params: dict[str, Any] | None = None, *, stream: bool = False) -> Call:
        """Send a request that the contract allows; ``stream`` gives it a channel of its own.

        :raises HarnessFault: if the params do not match the contract's own schema.
        """
        members = dict(params or {})
        channel = next(self._channels) if stream else members.get("channel")
        if stream:
            members["channel"] = channel
        if wrong := self.schemas.problems(method, "params", members):
            raise HarnessFault(f"the harness's own {method} does not fit its schema: {wrong[0]}")
        return self.start_any(method, members if members or params is not None else None)

    def start_any(self, method: str, params: Any, id: int | str | None = None) -> Call:
        """Send a request without validating it; ``id`` replaces the next number."""
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": next(self._ids) if id is None else id, "method": method}
        if params is not None:
            request["params"] = params
        channel = cast("dict[str, Any]", params).get("channel") if isinstance(params, dict) else None
        call = Call(self, request["id"], method, channel, len(self.inbox))
        self.send(request)
        return call

    def call(
        self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Send a request and return its result."""
        return self.start(method, params).result(timeout)

    def refused(self, kind: str, method: str, params: Any = None) -> dict[str, Any]:
        """Send a request that must be answered with an error of that kind; return the error."""
        return self.start_any(method, params).error(kind)

    def notify(self, method: str, params: Any = None) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method} | ({} if params is None else {"params": params}))

    def barrier(self) -> Call:
        """Wait for a ping that is answered after everything sent before it was looked at; its id is not a number."""
        ping = self.start_any("ping", None, f"conformance-{next(self._probes)}")
        ping.result()
        return ping

    def settled(self) -> None:
        """Note for the watch that no more answers are due."""
        with self._news:
            self._watch.settled()

    # --- waiting ---

    def wait(self, what: str, found: Callable[[Any], bool], *, start: int = 0, timeout: float | None = None) -> Any:
        """Return the first message from ``start`` on for which ``found`` is true.

        :raises Failed: if none arrives in time, or the output ends first.
        :raises HarnessFault: if a message arrived that the watch could not judge.
        """
        until = time.monotonic() + (self.timeout if timeout is None else timeout)
        place = start
        with self._news:
            while True:
                while place < len(self.inbox):
                    if found(self.inbox[place]):
                        return self.inbox[place]
                    place += 1
                if self.fault:
                    raise HarnessFault(f"what came could not be checked: {self.fault}")
                if self.endless:
                    raise Failed(f"it wrote a line of more than {_LONGEST >> 20} MiB before {what}")
                if self.closed:
                    raise Failed(f"its output ended before {what}{self._status()}")
                if not self._news.wait(max(0.0, until - time.monotonic())) and time.monotonic() >= until:
                    seconds = self.timeout if timeout is None else timeout
                    raise Failed(f"no {what} within {seconds:g} s")

    def pause(self) -> None:
        """Stop reading its output, like a host that does not read."""
        self._paused.clear()
        self.may_be_cut = True

    def unread(self) -> int:
        """Return the bytes of its output waiting in the pipe; 0 if the system does not say."""
        if sys.platform == "win32":
            return 0
        import fcntl
        import termios

        return int.from_bytes(fcntl.ioctl(self._stdout, termios.FIONREAD, bytes(4)), sys.byteorder)

    def resume(self) -> None:
        """Resume reading."""
        self._paused.set()

    # --- the end ---

    def close_stdin(self) -> None:
        """Close its input."""
        if self.stdin >= 0:
            self.note("stdin is closed")
            os.close(self.stdin)
            self.stdin = -1

    def wait_exit(self, timeout: float, after: str) -> int:
        """Return its exit status; negative for a signal.

        :raises Failed: if it does not end in time.
        """
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"it is still there {timeout:g} s after {after}") from None
        self._reader.join(2)
        self.note(f"it ended with status {status}")
        return status

    def wait_output_end(self, timeout: float, after: str) -> float:
        """Wait until nobody holds the other end of its stdout; return the seconds that took."""
        began = time.monotonic()
        self._reader.join(timeout)
        if self._reader.is_alive():
            raise Failed(f"it is still there {timeout:g} s after {after}")
        return time.monotonic() - began

    def end(self) -> None:
        """End it cleanly if possible, else by force; may be called again."""
        self.resume()
        self.close_stdin()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.may_be_cut = True
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(2)
        while self.child_ends:
            os.close(self.child_ends.pop())
        if self.process.stderr is not None:
            self.process.stderr.close()

    def stderr(self) -> bytes:
        """Return everything that it has written to stderr."""
        return self.log.read_bytes()

    def note(self, text: str) -> None:
        """Add a note to the record."""
        self._record("·", text.encode())

    def _status(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f" (exit status {self.process.wait(0.5)})"
        return ""

    def _record(self, way: str, line: bytes) -> None:
        if len(self.events) < _EVENTS:
            text = line[:_TEXT].decode(errors="backslashreplace")
            self.events.append(Event(self.number, time.monotonic() - self._began, way, text, len(line)))

    # --- the reader thread ---

    def _read(self) -> None:
        rest = bytearray()
        with contextlib.suppress(OSError):
            while self._paused.wait() and (data := os.read(self._stdout, 65536)):
                lines = data.split(b"\n")
                rest += lines[0]
                if len(rest) > _LONGEST:
                    self.endless = True
                    break
                for line in lines[1:]:
                    self._line(bytes(rest))
                    rest = bytearray(line)
        with self._news:
            self.closed = True
            if self.endless:
                self._watch.too_long(len(rest))
            elif self.watched and not self.may_be_cut:
                self._watch.ended(bytes(rest))
            self._news.notify_all()
        os.close(self._stdout)

    def _line(self, line: bytes) -> None:
        with self._news:
            self._record("←", line)
            try:
                message = self._watch.received(line) if self.watched else None
            except Exception as error:  # noqa: BLE001  nobody would see it in this thread
                message, self.fault = None, f"{type(error).__name__}: {error}"
                self._news.notify_all()
            if message is not None:
                self.inbox.append(message)
                self._news.notify_all()
