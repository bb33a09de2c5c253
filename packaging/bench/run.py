"""``make bench``: runs every benchmark and prints a table, then one line of JSON.

Ratios compare two things measured turn by turn in this one run; single times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import cancel, overhead, startup
from bench.common import ROOT, Row


def main() -> int:
    """0 when every goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run at all")
    parser.add_argument("--only", choices=("startup", "overhead", "cancel"), help="one part")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.only in (None, "startup"):
        rows += startup.startup(4 if options.quick else 20)
        rows += startup.pipelined(1000 if options.quick else 10_000)
    if options.only in (None, "overhead", "cancel"):
        with tempfile.TemporaryDirectory() as folder:
            script = str(ROOT / "fixtures" / "make_models.py")
            subprocess.run([sys.executable, script, "--synthetic-sd3", folder, "--target-ms", "200"], check=True)
            entry = json.loads(next(Path(folder).glob("*.json")).read_text())
            if options.only in (None, "overhead"):
                rows += overhead.measure(entry, Path(folder), 2 if options.quick else 8)
            if options.only in (None, "cancel"):
                rows += cancel.measure(entry, Path(folder), 4 if options.quick else 40)
    for row in rows:
        goal = "" if row.goal is None else f"<= {row.goal:g}"
        mark = {None: "", True: "met", False: "MISSED"}[row.met]
        print(f"{row.name:52} {row.value:10.3f} {row.unit:4} {goal:8} {mark:7} {row.note}")
    print(json.dumps({"bench": [asdict(row) | {"met": row.met} for row in rows]}))
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
