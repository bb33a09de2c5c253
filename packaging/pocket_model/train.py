"""The whole training from the seeds, in one command, with the time that each part took.

    python -m pocket_model.train --work WORK [--to FOLDER]

Autoencoder and text encoders are trained side by side, then the transformer; the finished folder is written to
``--to`` (``WORK/pocket`` unless said) and evaluated. ``WORK`` must be empty: nothing is resumed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path


def start(module: str, *arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """A part of the training in a process of its own."""
    output = log.open("wb") if log else None
    return subprocess.Popen([sys.executable, "-m", f"pocket_model.{module}", *arguments], stdout=output)


def main() -> None:
    """Trains, exports, evaluates; stops at the first part that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--to", type=Path, help="the finished folder; WORK/pocket unless said")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        parser.error(f"{work} is not empty: a training from the seeds resumes nothing")
    to = options.to or work / "pocket"
    begun = time.monotonic()
    stages = (
        ("autoencoder and text encoders", ("train_autoencoder", "train_text"), ("--work", str(work))),
        ("transformer", ("train_model",), ("--work", str(work))),
        ("export", ("export",), ("--work", str(work), "--to", str(to))),
    )
    for name, modules, arguments in stages:
        since = time.monotonic()
        parts = [start(m, *arguments, log=work / f"{m}.log") for m in modules]
        statuses = [part.wait() for part in parts]
        if any(statuses):
            raise SystemExit(f"{name}: failed; see the logs in {work}")
        print(f"{name}: {(time.monotonic() - since) / 60:.1f} minutes", flush=True)
    print(f"all trainings: {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    if start("evaluate", str(to), "--sheet", str(work / "sheet.png")).wait():
        raise SystemExit("evaluation: failed")


if __name__ == "__main__":
    main()
