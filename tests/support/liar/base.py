"""The part that stands between a host and a real implementation and passes everything on unchanged. Standard library
only."""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time


class Honest:
    """Pass lines on. ``inward`` and ``outward`` get a line without its LF and return what replaces it."""

    stderr = None

    def __init__(self, command):
        self.host = os.getppid()
        self.lock = threading.RLock()
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            bufsize=0,
            pass_fds=[int(command[command.index("--descriptors") + 1])] if "--descriptors" in command else (),
        )
        self.methods = {}
        self.writes = None  # the time since when a write has been in progress
        self.started()

    def started(self):
        pass

    def inward(self, line, message):
        return [line]

    def outward(self, line, message):
        return [line]

    def at_end_of_input(self) -> None:
        self.child.stdin.close()
        self.child.wait()
        while self.writes is None or time.monotonic() < self.writes + 0.3:  # after that, nobody reads the rest
            time.sleep(0.05)
        os._exit(self.end_status())

    def at_end_of_output(self, status):
        return status

    def on_signal(self, number, _frame):
        self.child.send_signal(number)

    def host_left(self) -> None:
        """Kill the implementation and exit, because the process that spawned this one is gone."""
        self.child.kill()
        os._exit(0)

    def watch_host(self, host):
        while os.getppid() == host:
            time.sleep(0.1)
        self.host_left()

    # --- for lies ---

    def say(self, *lines):
        with self.lock:
            for line in lines:
                self.write(line + b"\n")

    def write(self, data):
        while data:
            self.writes = time.monotonic()
            try:
                data = data[os.write(1, data) :]
            except BlockingIOError:
                self.not_ready()
        self.writes = None

    def not_ready(self):
        select.select([], [1], [])

    def answer(self, message, result=None, **error):
        """Answer a request instead of the implementation; nothing is passed on."""
        given = {"result": {} if result is None else result} if not error else {"error": refusal(**error)}
        self.say(encoded({"jsonrpc": "2.0", "id": message.get("id")} | given))
        return []

    def method_of(self, message):
        """Return the method of the request that a response answers."""
        waiting = self.waiting_for(message)
        return waiting[0][waiting[1]] if waiting else None

    # --- the pump ---

    def passed(self, way, line, message):
        """Return what is passed on: the line itself if it does not have the form that the lie is about (fixtures send
        anything)."""
        try:
            return list(way(line, message))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return [line]

    def came(self, message):
        """Remember the method of a request until it is answered."""
        if isinstance(message, dict) and "id" in message and "method" in message:
            self.methods.setdefault(json.dumps(message["id"]), []).append(message["method"])

    def waiting_for(self, message):
        """Find the waiting request that a response answers: the calls with its id, and the index in them. Of two with
        one id, the later one is the one that is refused."""
        calls = self.methods.get(json.dumps(message.get("id")))
        if not calls or "method" in message:
            return None
        return calls, -1 if message.get("error", {}).get("code") == -32600 else 0

    def lines_in(self):
        """Return the host's lines; of a line over the limit, only enough to show that it is too long."""
        return iter_lines(0, LONGER)

    def run(self):
        assert sys.platform != "win32"
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.on_signal)
        threading.Thread(target=self.watch_host, args=(self.host,), daemon=True).start()
        threading.Thread(target=self.pump_in, daemon=True).start()
        for line in iter_lines(self.child.stdout.fileno()):
            message = parsed(line)
            waiting = self.waiting_for(message) if isinstance(message, dict) else None
            out = self.passed(self.outward, line, message)
            if waiting:
                waiting[0].pop(waiting[1])
            self.say(*out)
        os._exit(self.end_status())

    def end_status(self):
        status = self.at_end_of_output(self.child.wait())
        return status if status >= 0 else 128 - status

    def pump_in(self):
        for line in self.lines_in():
            message = parsed(line) if len(line) < 1 << 20 else None
            self.came(message)
            for one in self.passed(self.inward, line, message):
                try:
                    rest = one + b"\n"
                    while rest:
                        rest = rest[self.child.stdin.write(rest) :]
                except OSError:
                    return
        self.at_end_of_input()


LONGER = (16 << 20) + 1024
"""In bytes: more than the longest line that is allowed."""


def iter_lines(fd, most=None, read=os.read):
    rest = bytearray()
    while True:
        try:
            data = read(fd, 65536)
        except BlockingIOError:
            select.select([fd], [], [])
            continue
        if not data:
            return
        first, *more = data.split(b"\n")
        if most is None or len(rest) < most:
            rest += first
        for line in more:
            yield bytes(rest)
            rest = bytearray(line)


def parsed(line):
    """Return the message, or None if the line is not one or cannot be written again unchanged (a number beyond every
    float)."""
    try:
        message = json.loads(line.decode(), parse_constant=_refused, parse_float=_finite)
        if b"\\ud" in line.lower():  # half a surrogate pair is not text
            json.dumps(message, ensure_ascii=False).encode()
        return message
    except (ValueError, RecursionError):
        return None


def _refused(word):
    raise ValueError(word)


def _finite(word):
    return float(word) if math.isfinite(float(word)) else _refused(word)


def encoded(message):
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


class Changing(Honest):
    """Change responses and frames as objects: ``response``, ``error`` and ``frame`` may change their argument."""

    def response(self, message):
        pass

    def error(self, error):
        pass

    def frame(self, params):
        pass

    def outward(self, line, message):
        if isinstance(message, dict):
            if "method" in message:
                self.frame(message["params"])
            else:
                if "error" in message:
                    self.error(message["error"])
                self.response(message)
            return [encoded(message)]
        return [line]


def refusal(kind, code, **data):
    """Return an error object as the contract describes it."""
    return {"code": code, "message": "No.", "data": {"kind": kind, "retryable": False} | data}


class Asked(Honest):
    """Look at requests: ``asked`` gets each one with its params, and may change it, or answer it and report that."""

    def asked(self, request, method, params):
        raise NotImplementedError

    def inward(self, line, message):
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return [line]
        before = encoded(message)
        params = message.get("params")
        if self.asked(message, message["method"], params if isinstance(params, dict) else {}) is True:
            return []
        after = encoded(message)
        return [line] if after == before else [after]


class AskedInFolder(Asked):
    """The same, with the granted folder in ``root``."""

    root = ""

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "initialize":
            params = message.get("params")
            grants = params.get("grants") if isinstance(params, dict) else None
            self.root = (grants if isinstance(grants, dict) else {}).get("user-folder") or self.root
        return super().inward(line, message)


class Drawing(Asked):
    """Look at the options of ``image.generate`` and ``image.edit``."""

    def options(self, options, params):
        raise NotImplementedError

    def asked(self, request, method, params):
        if method in ("image.generate", "image.edit") and isinstance(params.get("options"), dict):
            return self.options(params["options"], params)
        return None


class Renamed(Changing):
    """Give errors of one kind another kind."""

    was, code, kind = 0, 0, ""

    def error(self, error):
        if error["code"] == self.was:
            error["code"], error["data"]["kind"], error["data"]["retryable"] = self.code, self.kind, False


class OpensWithAnother(Honest):
    """Change the manifest on its way in."""

    def change(self, manifest):
        raise NotImplementedError

    def inward(self, line, message):
        if isinstance(message, dict) and message.get("method") == "initialize":
            manifest = message["params"].get("manifest")
            if manifest:
                self.change(manifest)
                return [encoded(message)]
        return [line]
