"""Lies about the end, and the descriptors."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading

from support.liar.base import (
    Asked,
    Honest,
    encoded,
)


class SurvivesTheEndOfInput(Honest):
    def at_end_of_input(self):
        pass


class WaitsForItsReader(Honest):
    """Its host has left and reads nothing any more."""

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
    def at_end_of_output(self, status):
        return 0


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
    stderr = subprocess.DEVNULL

    def started(self):
        if "--no-such-flag" in sys.argv:
            self.write(b"usage: liar\n")


class PrintsOnStdout(Honest):
    def outward(self, line, message):
        if isinstance(message, dict) and self.method_of(message) == "image.generate":
            return [b"loading pipeline components 100%", line]
        return [line]


class PrintsABanner(Honest):
    def started(self):
        self.say(
            encoded({"jsonrpc": "2.0", "method": "DiffusionStep", "params": {"channel": 1, "index": 0, "end": True}})
        )


class LogsText(Honest):
    def started(self):
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
    """Takes all input, whatever waits to be written."""

    def started(self):
        self.backlog, self.more = [], threading.Condition()
        threading.Thread(target=self.drain, daemon=True).start()

    def inward(self, line, message):
        with self.more:
            self.backlog.append(line)
            self.more.notify()
        return []

    def drain(self):
        while True:
            with self.more:
                while not self.backlog:
                    self.more.wait()
                line = self.backlog.pop(0)
            self.child.stdin.write(line + b"\n")


class WaitsForStderr(Honest):
    def outward(self, line, message):
        os.write(2, encoded({"msg": "x" * 1000}) + b"\n")
        return [line]


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
    def started(self):
        assert sys.platform != "win32"
        self.full = False
        os.set_blocking(1, False)  # so that it is told when the pipe is full

    def outward(self, line, message):
        full, self.full = self.full, False
        return [] if full else [line]

    def not_ready(self):
        self.full = True
        super().not_ready()
