"""Spawn to first answer, the idle daemon's memory, and pipelined pings."""

from __future__ import annotations

import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from support.measuring import ROOT, Row, command, host

_PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


def startup(runs: int) -> list[Row]:
    """Measure from spawn to the first answered ``ping``, alternating with only importing msgspec and anyio.

    Our code is compiled first, as an installer leaves it: where PYTHONDONTWRITEBYTECODE is set, a checkout would
    otherwise be compiled again at every start, which takes longer than everything measured here.
    """
    for package in ("protocol", "sidecar"):
        compileall.compile_dir(ROOT / package, quiet=1)
    ours: list[float] = []
    imports: list[float] = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import msgspec, anyio"], check=True)
        imports.append(time.perf_counter() - began)
        began = time.perf_counter()
        with subprocess.Popen(command("--engine", "fake"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdin is not None
            assert daemon.stdout is not None
            daemon.stdin.write(_PING)
            daemon.stdin.flush()
            daemon.stdout.readline()
            ours.append(time.perf_counter() - began)
            daemon.stdin.close()
    ratios = [a / b for a, b in zip(ours, imports, strict=True)]
    return [
        Row("spawn to first ping", statistics.median(ours) * 1000, "ms", None),
        Row(
            "spawn to first ping / import msgspec, anyio", statistics.median(ratios), "x", 2.0, f"{runs} pairs, median"
        ),
        Row("resident memory, idle", _idle_memory(), "MiB", 40.0, "a session is open"),
    ]


def _idle_memory() -> float:
    """Resident MiB of a daemon with an open session that has nothing to do."""
    with tempfile.TemporaryDirectory() as folder, host(Path(folder), "--engine", "fake") as sidecar:
        sidecar.call("ping")
        return psutil.Process(sidecar.process.pid).memory_info().rss / (1 << 20)


def pipelined(count: int) -> list[Row]:
    """Write ``count`` pings without waiting: all must be answered, each id once, in order."""
    with subprocess.Popen(command("--engine", "fake"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(_PING)
        daemon.stdin.flush()
        daemon.stdout.readline()
        lines = b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n' % i for i in range(count))
        began = time.perf_counter()
        stdin = daemon.stdin
        writer = threading.Thread(target=lambda: (stdin.write(lines), stdin.flush()))
        writer.start()
        answers = [daemon.stdout.readline() for _ in range(count)]
        took = time.perf_counter() - began
        writer.join()
        daemon.stdin.close()
    ids = [json.loads(answer)["id"] for answer in answers]
    return [
        Row("pipelined pings answered a second", count / took, "1/s", None, f"{count} pings"),
        Row(
            "pipelined pings lost or out of order",
            float(sum(a != b for a, b in zip(ids, range(count), strict=True))),
            "",
            0.0,
        ),
    ]
