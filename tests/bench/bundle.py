"""``make bench-bundle``: time from spawn to first answer, for the folder that an app ships and a virtual environment.

They take turns, so that other work on the machine affects both. Prints both medians and their ratio, whose goal is
1.2, and the same for processor time, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import time
from pathlib import Path

from support.measuring import Row, command

_PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


def spawn_to_ping(words: list[str]) -> tuple[float, float]:
    """Return the seconds from a daemon's start to its first answer, and the processor seconds of its whole life."""
    used = _children()
    began = time.perf_counter()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(_PING)
        daemon.stdin.flush()
        assert daemon.stdout.readline().startswith(b'{"jsonrpc"')
        took = time.perf_counter() - began
        daemon.stdin.close()
    return took, _children() - used


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(folder: Path, rounds: int) -> list[Row]:
    """Return the figures of ``rounds`` pairs, after one that warms the disk cache."""
    ours, theirs = [str(folder / "locara-sidecar"), "serve", "--engine", "fake"], command("--engine", "fake")
    pairs = [(spawn_to_ping(ours), spawn_to_ping(theirs)) for _ in range(rounds + 1)][1:]
    found: list[Row] = []
    for at, (what, goal) in enumerate((("spawn to first ping", 1.2), ("processor time of a short life", None))):
        bundle, installed = ([each[at] for each in column] for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in zip(bundle, installed, strict=True))
        found += [
            Row(f"bundle: {what}", statistics.median(bundle) * 1000, "ms", None),
            Row(f"virtual environment: {what}", statistics.median(installed) * 1000, "ms", None),
            Row(f"bundle / virtual environment: {what}", ratio, "x", goal, f"{rounds} pairs, median of ratios"),
        ]
    return found


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    for row in rows(options.folder, options.rounds):
        print(f"{row.figure:>12}  {row.name}  {row.note}")


if __name__ == "__main__":
    main()
