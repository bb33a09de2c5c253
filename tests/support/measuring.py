"""What the benchmarks share: a host, percentiles, and the format of a row."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from locara_protocol.client import Sidecar

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Row:
    """One figure. ``goal`` is its upper bound; None if it is only reported."""

    name: str
    value: float
    unit: str
    goal: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal

    @property
    def figure(self) -> str:
        """Return the value with its unit: ratios with three decimals, all else with three significant digits."""
        digits = 3 if self.unit == "x" else 0
        if self.value and self.unit != "x":
            digits = max(0, 2 - math.floor(math.log10(abs(self.value))))
        return f"{self.value:,.{digits}f} {self.unit}".strip()


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0…1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def manifest(*models: str) -> dict[str, Any]:
    return {
        "schema": "locara/v1",
        "name": "bench",
        "publisher": "locara",
        "version": "1.0.0",
        "modalities": ["text-to-image"],
        "capabilities": {"models": list(models), "fs": {"user-folder": "write"}},
    }


def command(*more: str) -> list[str]:
    """Return the command that a host spawns: the installed script if there is one."""
    script = Path(sys.executable).with_name("locara-sidecar")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "locara_sidecar"]
    return [*start, "serve", "--log-level", "error", *more]


def host(folder: Path, *more: str, models: tuple[str, ...] = ("pocket",)) -> Sidecar:
    """Open an initialised session that may draw with ``models`` and save in ``folder``."""
    sidecar = Sidecar(command(*more))
    sidecar.initialize(manifest=manifest(*models), grants={"user-folder": str(folder)})
    return sidecar


def show(rows: list[Row]) -> int:
    """Print the table, then one line of JSON; return 0 if every goal is met."""
    for row in rows:
        goal = "" if row.goal is None else f"<= {row.goal:g}"
        mark = {None: "", True: "met", False: "MISSED"}[row.met]
        print(f"{row.name:52} {row.value:10.3f} {row.unit:4} {goal:8} {mark:7} {row.note}")
    print(json.dumps({"bench": [asdict(row) | {"met": row.met} for row in rows]}))
    return 0 if all(row.met is not False for row in rows) else 1


def seconds_of(sidecar: Sidecar, prompt: str, options: dict[str, Any]) -> float:
    """Return the seconds from a picture's request to its answer."""
    began = time.perf_counter()
    call = sidecar.start("image.generate", {"prompt": prompt, "options": options}, stream=True)
    for _ in call.messages():
        pass
    call.result()
    return time.perf_counter() - began
