"""The memory that an autoencoder of the published size holds while it decodes and encodes in strips, on the CPU.

    python -m fullsize.strips [CASE …] [--engine torch|mlx]

A CASE is ``WAY:SIDE:TYPE``, such as ``decode:2048:bfloat16``. Each runs in a process of its own, on random weights: the
process's peak as Linux counts it (``VmHWM``) above what it held before, so without weights and libraries. Beside it is
the memory plan's figure for the same. A decode at 1024 x 1024 takes minutes on two cores, at 2048 x 2048 some twenty.
"""

from __future__ import annotations

import argparse
import sys

from support.measuring import Row, show
from support.strips import Case, measured, planned

GB = 1_000_000_000
GOALS = {1024: 1.8, 2048: 6.0}
"""The most gigabytes with weights, by the picture's side."""
CASES = [Case(way, side, "bfloat16") for side in (1024, 2048) for way in ("decode", "encode")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", type=Case.read, help="WAY:SIDE:TYPE; all four in bfloat16")
    parser.add_argument("--engine", choices=("torch", "mlx"), default="torch")
    options = parser.parse_args()
    rows: list[Row] = []
    for case in options.cases or CASES:
        found = measured(case, options.engine)
        name, weights = f"{case.way} {case.side} {case.dtype}", found["weights"] / GB
        rows.append(Row(f"{name}, held at the peak", found["taken"] / GB, "GB", planned(case) / GB, "goal: the plan"))
        with_weights = found["taken"] / GB + weights
        print(f"{name}: {found}", file=sys.stderr, flush=True)
        rows.append(Row(f"{name}, with weights", with_weights, "GB", GOALS.get(case.side), f"{found['seconds']:.0f} s"))
    return show(rows)


if __name__ == "__main__":
    sys.exit(main())
