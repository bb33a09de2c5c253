"""From spawning the sidecar to its first picture with the embedded model: how long, and where the time goes.

    python -m bench.first_picture [--engine mlx|torch] [--rounds N]

Each round is a new daemon and a new engine; nothing is downloaded. The rows are medians of the rounds, except for the
fastest whole. On a machine that
others use, only the fastest means something, and not much.
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


def drawn(engine: str) -> dict[str, float]:
    """Draw one picture with a new daemon; return the seconds of the whole, and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with host(Path(folder), "--engine", engine) as sidecar:
            opened = time.perf_counter() - began
            result: dict[str, Any] = sidecar.call("image.generate", {"prompt": "a large red circle"})
            took = time.perf_counter() - began
    found = {name: result["timings"][key] / 1000 for key, name in PHASES.items()}
    rest = took - opened - sum(found.values())
    return {"all of it": took, "the daemon's start": opened, "the engine's start, and saving": rest, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("mlx", "torch"), default="mlx")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = [drawn(options.engine) for _ in range(options.rounds)]
    fastest = min(found["all of it"] for found in rounds)
    rows = [Row(f"{options.engine}, spawn to first picture, fastest", fastest, "s", GOALS.get(options.engine))]
    for name in rounds[0]:
        middle = statistics.median(found[name] for found in rounds)
        rows.append(Row(f"{name}, median", middle, "s", None))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
