"""``make bench``: runs every benchmark and prints a table, then one line of JSON.

Ratios compare two things measured alternately in this one run; single times depend on the machine.
With ``--write`` (``make bench FLAGS=--write``) a whole run also replaces the table in tests/MEASURED.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import busy, cancel, overhead, previews, startup
from locara_sidecar.models import catalogue
from support.measuring import ROOT, Row, show

_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"


def machine() -> str:
    """Describe the machine on which the figures were taken."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores ({processor}), {platform.system()}, Python {platform.python_version()}"


def table(rows: list[Row], minutes: float) -> str:
    """Format the rows as in tests/MEASURED.md."""
    lines = [f"{machine()}; `make bench` took {minutes:.0f} minutes:", "", "| | measured | goal |", "|---|---|---|"]
    for row in rows:
        name = f"{row.name} ({row.note})" if row.note else row.name
        goal = "" if row.goal is None else f"{row.goal:g}{'' if row.met else ' (**missed**)'}"
        lines.append(f"| {name} | {row.figure} | {goal} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replace the part of a file between the two marks with ``text``."""
    before, rest = path.read_text(encoding="utf-8").split(_BEGIN)
    _, after = rest.split(_END)
    path.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", encoding="utf-8")


def main() -> int:
    """Return 0 if every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all")
    parser.add_argument("--only", choices=("startup", "overhead", "busy", "cancel"), help="one part")
    parser.add_argument("--write", action="store_true", help="put the table into tests/MEASURED.md")
    options = parser.parse_args()
    if options.write and (options.quick or options.only):
        parser.error("--write takes the figures of a whole run")
    began = time.monotonic()
    rows: list[Row] = []
    if options.only in (None, "startup"):
        rows += startup.startup(4 if options.quick else 20)
        rows += startup.pipelined(1000 if options.quick else 10_000)
    if options.only in (None, "overhead", "busy", "cancel"):
        with tempfile.TemporaryDirectory() as folder:
            script = str(ROOT / "fixtures" / "make_models.py")
            subprocess.run([sys.executable, script, "--synthetic-sd3", folder, "--target-ms", "200"], check=True)
            entry = json.loads(next(Path(folder).glob("*.json")).read_text())
            if options.only in (None, "overhead"):
                rows += overhead.measure(entry, Path(folder), 2 if options.quick else 8)
                known = catalogue.load(Path(folder))
                rows += previews.measure(known, entry["id"], 1 if options.quick else 4)
                rows += previews.measure(known, "pocket", 2 if options.quick else 10)
            if options.only in (None, "busy"):
                rounds = 1 if options.quick else 3
                known = catalogue.load(Path(folder))
                rows += busy.measure(known, "pocket", Path(folder), 8 * rounds)  # its jobs are short
                rows += busy.measure(known, entry["id"], Path(folder), 2 * rounds)
            if options.only in (None, "cancel"):
                rows += cancel.measure(entry, Path(folder), 4 if options.quick else 40)
    if options.write:
        write(ROOT / "tests" / "MEASURED.md", table(rows, (time.monotonic() - began) / 60))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
