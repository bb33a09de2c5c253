"""What the daemon's campaign spawns: the real daemon with the fake engine, and the same with a fault planted in it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from locara_protocol.client import Sidecar

if TYPE_CHECKING:
    from pathlib import Path

PLANTS = {
    "nobody watches the host": "import locara_sidecar.daemon.process.hostwatch as h; h.watch_parent = lambda *_: None",
    "a crash is not told": (
        "from locara_sidecar.daemon.engine_host.supervision.supervisor import Supervisor as s;"
        " s._died = lambda *_: None"
    ),
    "no stall deadline": (
        "from locara_sidecar.daemon.engine_host.supervision.supervisor import Supervisor as s;"
        " s._stalled = lambda *_, **__: None"
    ),
    "frames wait without bound": "import locara_sidecar.daemon.wire.outbox as o; o.MAX_PENDING = 10**9",
    "the host is never held back": "import locara_sidecar.daemon.wire.outbox as o; o.HIGH_WATER_BYTES = 10**12",
    "stdout is not claimed": "import locara_sidecar.daemon.wire.stdio as s; s.claim = lambda: (0, 1)",
    "what is no request is dropped": (
        "from locara_sidecar.daemon.wire.server import Server; Server._refuse = lambda *_: None"
    ),
}
"""Faults, each as the statements that put it into a daemon before it starts."""

NOISE = """
import ctypes, os, subprocess, sys, threading, time, warnings
def noise():
    library = ctypes.CDLL(None)
    time.sleep(0.2)
    while True:
        print("noise", flush=True)
        os.write(1, b"noise\\n")
        library.puts(b"noise"); library.fflush(None)
        subprocess.run(["/bin/sh", "-c", "echo noise"])
        warnings.warn("noise")
        time.sleep(0.002)
threading.Thread(target=noise, daemon=True).start()
"""
"""Makes a daemon print in every possible way, for as long as it lives."""


def command(*flags: str, plant: str = "") -> list[str]:
    """The daemon's command line; ``plant`` is Python that runs in it first."""
    start = ["-c", f"{plant}\nfrom locara_sidecar.__main__ import main\nmain()"] if plant else ["-m", "locara_sidecar"]
    return [sys.executable, *start, "serve", "--engine", "fake", "--log-level", "error", *flags]


def environment(**milliseconds: int) -> dict[str, str]:
    """The environment with times of the fake engine: ``load``, ``encode``, ``step``, ``decode``, ``start``."""
    return {**os.environ, **{f"LOCARA_FAKE_{name.upper()}_MS": str(value) for name, value in milliseconds.items()}}


def opening(folder: Path) -> dict[str, Any]:
    """Return the params of ``initialize`` for an app that may draw and save in ``folder``."""
    manifest = {
        "schema": "locara/v1",
        "name": "campaign",
        "publisher": "locara",
        "version": "1.0.0",
        "modalities": ["text-to-image"],
        "capabilities": {"models": ["pocket", "sd3.5-medium"], "fs": {"user-folder": "write"}},
    }
    return {
        "protocolVersion": 1,
        "clientInfo": {"name": "campaign", "version": "1"},
        "manifest": manifest,
        "grants": {"user-folder": str(folder)},
    }


def line(request_id: int | str, method: str, params: dict[str, Any] | None = None) -> bytes:
    """Return a request as it goes over the wire, with its LF."""
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
    return json.dumps(message).encode() + b"\n"


def session(folder: Path, *flags: str, plant: str = "", **milliseconds: int) -> Sidecar:
    """An initialised client."""
    sidecar = Sidecar(command(*flags, plant=plant), env=environment(**milliseconds))
    sidecar.call("initialize", opening(folder), timeout=30)
    return sidecar


def resident(pid: int, field: str = "VmRSS") -> int:
    """Return the resident bytes of a process: now, or its peak (``VmHWM``)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(row.split()[1]) * 1024 for row in status if row.startswith(f"{field}:"))
