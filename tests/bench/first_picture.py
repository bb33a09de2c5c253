"""From spawning the sidecar to its first picture with the embedded model: how long, and where the time goes.

    python -m bench.first_picture [--engine mlx|torch] [--rounds N]

Each round is a new daemon and a new engine; nothing is downloaded. The goal is for the median of the rounds. On a
machine that others use, only the fastest means something, and not much. Besides, the engine's own remark about what it
computes with is printed: on Linux, MLX's speed depends on whether the system has OpenBLAS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support.measuring import Row, host, show

GOALS = {"mlx": 2.0}
PHASES = {"loadMs": "loading", "encodeMs": "encoding", "denoiseMs": "denoising", "decodeMs": "decoding"}


def drawn(engine: str) -> tuple[dict[str, float], str]:
    """Draw one picture with a new daemon; return the seconds of the whole and of its parts, and the engine's remark."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with host(Path(folder), "--engine", engine) as sidecar:
            opened = time.perf_counter() - began
            result: dict[str, Any] = sidecar.call("image.generate", {"prompt": "a large red circle"})
            took = time.perf_counter() - began
            engines: list[dict[str, Any]] = sidecar.call("system.info")["engines"]
    remark = next((str(one.get("note", "")) for one in engines if one["id"] == engine), "")
    found = {name: result["timings"][key] / 1000 for key, name in PHASES.items()}
    rest = took - opened - sum(found.values())
    parts = {"spawn to first picture": took, "the daemon's start": opened, "the engine's start, and saving": rest}
    return {**parts, **found}, remark


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("mlx", "torch"), default="mlx")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds, remarks = zip(*(drawn(options.engine) for _ in range(options.rounds)), strict=True)
    print(f"{options.engine}: {remarks[-1] or 'the engine says nothing of what it computes with'}")
    rows: list[Row] = []
    for name in rounds[0]:
        middle = statistics.median(found[name] for found in rounds)
        goal = None if rows else GOALS.get(options.engine)
        rows.append(Row(f"{options.engine}, {name}, median", middle, "s", goal))
    fastest = min(found["spawn to first picture"] for found in rounds)
    rows.append(Row(f"{options.engine}, spawn to first picture, fastest", fastest, "s", None))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
