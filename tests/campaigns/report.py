"""The format of a campaign's report: one row per claim, with its goal, and one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass
class Row:
    """One claim. ``met``: whether the figure is as required; None: skipped. ``note``: how it was obtained."""

    name: str
    figure: str
    goal: str
    met: bool | None
    seconds: float
    note: str = ""


def show(campaign: str, rows: list[Row]) -> int:
    """Print the table and the JSON; return 0 if every goal is met."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = {None: "", True: "met", False: "MISSED"}[row.met]
        print(f"{row.name:{width}}  {row.figure:>22}  {row.goal:24} {mark:6} {row.seconds:8.1f} s  {row.note}")
    met = all(row.met is not False for row in rows)
    print(json.dumps({"campaign": campaign, "met": met, "rows": [asdict(row) for row in rows]}))
    return 0 if met else 1
