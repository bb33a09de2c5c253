"""Structured logging to stderr: one JSON object per line, bounded, never blocking the daemon.

If a host does not read stderr, lines are dropped and counted, and nothing waits. Every record has ``ts``, ``level``,
``logger``, ``msg`` and fields. No caller ever passes a prompt or a token here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Any

import msgspec

from locara_sidecar.daemon.wire.stdio import write_all

_log = logging.getLogger("locara.daemon")

_MAX_WAITING = 1000
_MAX_LINE_BYTES = 8192
_encoder = msgspec.json.Encoder(enc_hook=str)


class _Sink:
    """A bounded queue and the thread that writes it to fd 2."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._idle = threading.Event()
        self._idle.set()

    def start(self) -> None:
        self._thread.start()

    def put(self, line: bytes) -> None:
        with self._condition:
            if len(self._lines) >= _MAX_WAITING:
                self._dropped += 1
                return
            self._lines.append(line)
            self._idle.clear()
            self._condition.notify()

    def dropped(self) -> None:
        """Count a line that could not be built."""
        self._dropped += 1

    def flush(self, seconds: float) -> None:
        self._idle.wait(seconds)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._lines:
                    self._idle.set()
                    self._condition.wait()
                line = self._lines.popleft()
                dropped, self._dropped = self._dropped, 0
            if dropped:
                line += _encode("warning", "logs", "log lines were dropped", {"dropped": dropped})
            try:
                write_all(2, line)
            except OSError:
                with self._condition:
                    self._lines.clear()


_sink = _Sink()


def _encode(level: str, logger: str, msg: str, fields: dict[str, Any]) -> bytes:
    stamp = time.time()
    ts = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp)) + f".{int(stamp * 1000) % 1000:03d}Z"
    record = {"ts": ts, "level": level, "logger": logger, "msg": msg}
    record |= {name: value for name, value in fields.items() if name not in record}
    line = _encoder.encode(record)
    if len(line) > _MAX_LINE_BYTES:
        line = _encoder.encode({"ts": ts, "level": level, "logger": logger, "msg": msg[:1000], "cut": len(line)})
    return line + b"\n"


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._put(record)
        except Exception:  # noqa: BLE001 -- the caller has something more important to do
            _sink.dropped()

    def _put(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            # frames and the type only: an exception's text may quote what the user typed
            error = record.exc_info[1]
            fields = {**fields, "exception": type(error).__name__, "frames": _frames(error)}
        _sink.put(_encode(record.levelname.lower(), record.name, record.getMessage(), fields))


def _frames(error: BaseException) -> list[str]:
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-20:]


def start(level: str) -> None:
    """Send all logging of this process to stderr as JSON lines, from ``level`` (``debug`` … ``error``) up."""
    _sink.start()
    root = logging.getLogger()
    root.handlers[:] = [_Handler()]
    root.setLevel(level.upper())
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    _log.error("an exception was ignored", exc_info=what.exc_value)


def _uncaught(what: threading.ExceptHookArgs) -> None:
    _log.error("a thread failed", exc_info=what.exc_value)


def flush(seconds: float) -> None:
    """Wait until the log is written, for at most ``seconds``."""
    _sink.flush(seconds)
