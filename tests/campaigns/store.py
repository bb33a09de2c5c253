"""``make campaign-store``: the model store against kills, power cuts, wrong bytes and collection, at the figures that
are promised; prints a report.

Every zero stands beside the same attempt against a planted fault, which must be caught.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from campaigns import connections, corruptions, kills, powercut, readers
from campaigns.report import Row, show

PARTS = ("powercuts", "kills", "readers", "corruptions", "connections")


def main() -> int:
    """Return 0 if every goal is met and every planted fault is caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=1000, help="power cuts in each mode (1,000)")
    parser.add_argument("--kills", type=int, default=10_000, help="killed processes (10,000)")
    parser.add_argument("--operations", type=int, default=100_000, help="of readers and collectors (100,000)")
    parser.add_argument("--corruptions", type=int, default=10_000, help="transfers of wrong bytes (10,000)")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", help="where to work (the temporary folder)")
    options = parser.parse_args()
    if sys.platform == "win32":
        print("This campaign needs fork.", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="locara-campaign-", dir=options.folder) as name:
        where = Path(name).resolve()
        for part in options.only or PARTS:
            rows += {
                "powercuts": lambda: powercut.rows(where, options.cuts, options.seed),
                "kills": lambda: kills.rows(where, options.kills, options.seed),
                "readers": lambda: readers.rows(where, options.operations, options.seed),
                "corruptions": lambda: corruptions.rows(where, options.corruptions, options.seed),
                "connections": lambda: connections.rows(where / "connections"),
            }[part]()
    return show("store", rows)


if __name__ == "__main__":
    sys.exit(main())
