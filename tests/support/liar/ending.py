"""Lies about the end of a session, and about descriptors."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading

from support.liar.base import (
    Asked,
    Changing,
    Honest,
    encoded,
)


class SurvivesTheEndOfInput(Honest):
    """Only while exactly one picture is being made, and if there were only ``initialize`` and ``ping``."""

    def started(self):
        self.asked = set()

    def inward(self, line, message):
        self.asked.add(message.get("method") if isinstance(message, dict) else None)
        return [line]

    def at_end_of_input(self):
        drawing = sum(calls.count("image.generate") for calls in list(self.methods.values()))
        if drawing != 1 and not self.asked <= {"initialize", "ping"}:
            super().at_end_of_input()


class WaitsForItsReader(Honest):
    """Its host is gone and no longer reads."""

    def at_end_of_input(self):
        self.child.stdin.close()


class IgnoresSigterm(Honest):
    def on_signal(self, number, frame):
        if number != signal.SIGTERM:
            super().on_signal(number, frame)


class LeavesWithoutAnswering(Honest):
    def at_end_of_input(self):
        self.child.kill()
        os._exit(0)


class WrongStatus(Honest):
    """Change the exit status after a failure; a wrong command line has its own status."""

    def at_end_of_output(self, status):
        return 0 if status == 1 else status


class SurvivesItsHost(Honest):
    def host_left(self) -> None:
        pass


class ShutdownLeavesJobs(Honest):
    drew = False

    def inward(self, line, message):
        self.drew |= isinstance(message, dict) and message.get("method") == "image.generate"
        if isinstance(message, dict) and message.get("method") == "shutdown" and self.drew:
            self.say(encoded({"jsonrpc": "2.0", "id": message["id"], "result": {}}))
            return []
        return [line]


class UsageOnStdout(Honest):
    @property
    def stderr(self):
        return subprocess.DEVNULL if "--no-such-flag" in sys.argv else None

    def started(self):
        if "--no-such-flag" in sys.argv:
            self.write(b"usage: liar\n")


class PrintsOnStdout(Honest):
    def outward(self, line, message):
        if isinstance(message, dict) and self.method_of(message) == "image.generate":
            return [b"loading pipeline components 100%", line]
        return [line]


class PrintsABanner(Honest):
    """Only if the host does not send anything at once."""

    def started(self):
        frame = {"channel": 1, "index": 0, "end": True}
        if not select.select([0], [], [], 0.1)[0]:
            self.say(encoded({"jsonrpc": "2.0", "method": "DiffusionStep", "params": frame}))


class LogsText(Honest):
    """Only if the host sets a log level."""

    def started(self):
        if "--log-level" in sys.argv:
            os.write(2, b"INFO started\n")


class LogsPrompts(Honest):
    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "image.generate":
            os.write(2, encoded({"msg": str(message["params"].get("prompt"))}) + b"\n")
        return [line]


class MakesPipesBlocking(Honest):
    def started(self):
        assert sys.platform != "win32"
        for fd in (0, 1):
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)


class DiesWhenAPipeIsNotReady(Honest):
    def not_ready(self):
        os._exit(1)


class ReadsWithoutBound(Honest):
    """After the first request for the document, read all input, however much output is waiting."""

    def started(self):
        self.backlog, self.more, self.drains = [], threading.Condition(), False

    def inward(self, line, message):
        if not self.drains:
            if not isinstance(message, dict) or message.get("method") != "rpc.discover":
                return [line]
            self.drains = True
            threading.Thread(target=self.drain, daemon=True).start()
        with self.more:
            self.backlog.append(line)
            self.more.notify_all()
        return []

    def drain(self):
        while True:
            with self.more:
                self.more.wait_for(lambda: self.backlog)
                line = self.backlog[0]
            try:
                self.child.stdin.write(line + b"\n")
            except (OSError, ValueError):  # it has exited, or its input has ended
                return
            with self.more:
                self.backlog.pop(0)
                self.more.notify_all()

    def at_end_of_input(self):
        with self.more:
            self.more.wait_for(lambda: not self.backlog)
        super().at_end_of_input()


class WaitsForStderr(Changing):
    """Log a lot, and wait until it is read, if an error is about a member whose name is shortened in the path."""

    def error(self, error):
        if "…" in error["data"].get("path", ""):
            os.write(2, encoded({"msg": "x" * 1000}) + b"\n")


class IgnoresSigint(Honest):
    def on_signal(self, number, frame):
        if number != signal.SIGINT:
            super().on_signal(number, frame)


class IgnoresSighup(Honest):
    def on_signal(self, number, frame):
        assert sys.platform != "win32"
        if number != signal.SIGHUP:
            super().on_signal(number, frame)


class IgnoresProcessIds(Asked):
    def asked(self, request, method, params):
        if method == "initialize":
            params.pop("processId", None)


class LosesAnswersWhenFull(Honest):
    """Lose the document, which is long, unless the host has made its pipes non-blocking."""

    def started(self):
        assert sys.platform != "win32"
        self.full, self.loses = False, os.get_blocking(1)
        os.set_blocking(1, False)  # so that a full pipe is reported

    def outward(self, line, message):
        full, self.full = self.full, False
        return [] if full and self.loses and self.method_of(message) == "rpc.discover" else [line]

    def not_ready(self):
        self.full = True
        super().not_ready()
