"""Plays one scenario to a client and judges what its caller saw and what it sent."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from locara_conformance.cases import difference, fits, shorten
from locara_conformance.checks import Check, Result
from locara_conformance.host import player
from locara_conformance.outcomes import Event, Failed, HarnessFault, Outcome
from locara_conformance.validator import Schemas
from locara_protocol.methods import METHODS, NOTIFICATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locara_conformance.host.scenarios import Scenario

GONE_SECONDS = 2.0
"""How long its sidecar may outlive the client."""


def run(
    command: Sequence[str],
    scenarios: Sequence[Scenario],
    *,
    timeout: float = 30.0,
    progress: Callable[[Result], None] = lambda _result: None,
) -> list[Result]:
    """Return the result of each scenario.

    :param command: the adapter of the client under test; :param timeout: seconds for a whole scenario.
    """
    results: list[Result] = []
    for scenario in scenarios:
        match = Match(command, scenario, timeout)
        try:
            results.append(match.play())
        finally:
            match.clean()
        progress(results[-1])
    return results


class Match:
    """One scenario played to a client."""

    def __init__(self, command: Sequence[str], scenario: Scenario, timeout: float) -> None:
        self.command, self.scenario, self.timeout = list(command), scenario, timeout
        self._folder = Path(tempfile.mkdtemp(prefix="locara-host-"))
        self._record = self._folder / "record"
        self._schemas = Schemas()
        self._told: list[Any] = []
        self._stderr = ""
        self._warnings: list[str] = []

    def play(self) -> Result:
        """Play and judge."""
        check = Check(self.scenario.id, self.scenario.clauses, "MUST", lambda _lab: None, False)
        began, outcome, reason = time.monotonic(), Outcome.SUCCESS, ""
        try:
            self._play()
        except Failed as failed:
            outcome, reason = Outcome.FAILURE, str(failed)
        except HarnessFault as fault:
            outcome, reason = Outcome.ERROR, str(fault)
        if outcome is Outcome.SUCCESS and self._warnings:
            outcome, reason = Outcome.WARNING, "; ".join(self._warnings)
        result = Result(check, outcome, reason, time.monotonic() - began)
        result.exchange, result.stderr = self._exchange(), self._stderr[-4000:]
        return result

    def clean(self) -> None:
        """Remove the files written, and a sidecar left behind."""
        assert sys.platform != "win32"
        for entry in self._entries():
            if "started" in entry and not self._is_gone():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(entry["started"], signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- playing ---

    def _play(self) -> None:
        status = self._adapter()
        entries = self._entries()
        for entry in entries:
            if "fault" in entry:
                raise HarnessFault(f"the player: {entry['fault']}")
        self._judge_caller(status)
        self._judge_host(entries)
        deadline = time.monotonic() + GONE_SECONDS
        while not self._is_gone():
            if time.monotonic() > deadline:
                raise Failed("the client has ended but left its sidecar running")
            time.sleep(0.02)

    def _adapter(self) -> int | None:
        """Run the adapter; return its exit status, None if it had to be killed."""
        assert sys.platform != "win32"
        file = self._folder / "scenario.json"
        file.write_text(json.dumps(self.scenario.played()), encoding="utf-8")
        spawned = [sys.executable, "-I", "-S", str(Path(player.__file__)), str(file), str(self._record)]
        task = {"sidecar": self.scenario.command or spawned, "steps": self.scenario.given()}
        with (self._folder / "stderr").open("w+b") as log:
            try:
                process = subprocess.Popen(
                    self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
            except OSError as error:
                raise HarnessFault(f"{self.command[0]} cannot be run: {error}") from None
            status = None
            try:
                out, _ = process.communicate(json.dumps(task).encode() + b"\n", timeout=self.timeout)
                status = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, _ = process.communicate()
            except KeyboardInterrupt:
                os.killpg(process.pid, signal.SIGKILL)  # it runs in its own session, so Ctrl-C did not reach it
                process.wait()
                raise
            log.seek(0)
            self._stderr = log.read().decode(errors="replace")
        for line in out.splitlines():
            try:
                self._told.append(json.loads(line))
            except ValueError:
                raise Failed(
                    f"the adapter printed what is not JSON: {shorten(line.decode(errors='replace'))}"
                ) from None
        return status

    def _is_gone(self) -> bool:
        """Whether no process holds the lock on the record."""
        assert sys.platform != "win32"
        if not self._record.exists():
            return True
        with self._record.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _entries(self) -> list[dict[str, Any]]:
        if not self._record.exists():
            return []
        lines = self._record.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]

    # --- judging ---

    def _judge_caller(self, status: int | None) -> None:
        steps = self.scenario.steps
        for at, (step, told) in enumerate(zip(steps, self._told, strict=False)):
            where = f"step {at} ({step['do']})"
            if not isinstance(told, dict) or cast("dict[str, Any]", told).get("step") != at:
                raise Failed(f"{where} was reported as {shorten(told)}, not as an object with its number in `step`")
            due = step.get("expect", {"ok": {}})
            if not fits(due, told):
                raise Failed(f"{where}: {difference(due, told)}; the caller saw {shorten(told)}, not {shorten(due)}")
            if "should" in step and not fits(step["should"], told):
                self._warnings.append(f"{where}: the caller saw {shorten(told)}, ideally {shorten(step['should'])}")
        if len(self._told) < len(steps):
            at = len(self._told)
            how = f"did not end within {self.timeout:g} s" if status is None else f"ended the adapter (status {status})"
            raise Failed(f"step {at} ({steps[at]['do']}) {how}")
        if len(self._told) > len(steps):
            raise Failed(f"the adapter printed more lines than there are steps: {shorten(self._told[len(steps)])}")
        if status is None:
            raise Failed(f"the adapter finished all steps but did not exit within {self.timeout:g} s")
        if status != 0:
            raise Failed(f"the adapter ended with status {status}")

    def _judge_host(self, entries: list[dict[str, Any]]) -> None:
        messages = [self._message(one) for one in entries if "received" in one]
        if messages and messages[0].get("method") != "initialize":
            raise Failed(f"the first message was not initialize: {shorten(messages[0])}")
        ids = [json.dumps(one["id"]) for one in messages if "id" in one]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise Failed(f"the id {twice[0]} was used twice")
        for entry in entries:
            if entry.get("rest"):
                raise Failed(f"the host's output ended with {entry['rest']} bytes without LF")
        left = iter(messages)
        for one in self.scenario.sent:
            if not any(fits(one, message) for message in left):
                raise Failed(f"the host did not send {shorten(one)} in its place")

    def _message(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Decode a line that the host sent, which must be a message of the contract."""
        text: str = entry["received"]
        if entry["bytes"] > len(text.encode()):  # truncated by the player
            return {"cut": text}
        try:
            message: Any = json.loads(text)
        except ValueError:
            raise Failed(f"the host sent something that is not JSON: {shorten(text)}") from None
        if not isinstance(message, dict) or cast("dict[str, Any]", message).get("jsonrpc") != "2.0":
            raise Failed(f"the host sent something that is not a message: {shorten(message)}")
        members = cast("dict[str, Any]", message)
        method = members.get("method")
        if method not in (METHODS if "id" in members else NOTIFICATIONS):
            raise Failed(f"the host sent a method that is not in the contract: {shorten(members)}")
        for sentence in self._schemas.problems(str(method), "params", members.get("params") or {}):
            raise Failed(f"the host's {method}: {sentence}")
        return members

    def _exchange(self) -> list[Event]:
        """Return what was played, what the player received, and what the adapter printed."""
        what = self.scenario.description
        events = [Event(1, 0.0, "·", what, len(what.encode()))]
        for entry in self._entries():
            seconds = entry.pop("seconds")
            if "received" in entry:
                events.append(Event(1, seconds, "→", entry["received"], entry["bytes"]))
            else:
                said = json.dumps(entry)
                events.append(Event(1, seconds, "·", said, len(said)))
        for told in self._told:
            said = json.dumps(told, ensure_ascii=False)
            events.append(Event(2, 0.0, "←", said[:4000], len(said.encode())))
        return events
