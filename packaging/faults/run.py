"""Plants each fault of the lists beside this file in a copy of the tree and runs the tests that must fail for it.

A fault is one sentence of what the project promises, and the smallest change that breaks it::

    [[fault]]
    breaks = "a line over the limit is reported and not read"
    file = "protocol/locara_protocol/framing.py"
    old = "…"        # stands there exactly once
    new = "…"
    tests = ["tests/protocol/test_framing.py"]
    select = "…"     # pytest's -k, if need be
    more = [{ file, old, new }]   # where one change is not enough

First all the named tests must pass without a fault. A fault is noticed when its tests then fail (not when they cannot
be collected: such a fault breaks too much to tell anything). Prints a line a fault, then one of JSON; ends with 1 if
one goes unnoticed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LISTS = Path(__file__).parent
_SECONDS = 300
_MEANS = {0: "UNNOTICED", 1: "noticed", -1: "noticed"}


class Change(NamedTuple):
    """``old`` becomes ``new`` in ``file``, which is relative to the project."""

    file: str
    old: str
    new: str

    def stands_once(self, root: Path) -> bool:
        """Whether ``old`` is in the file exactly once."""
        return (root / self.file).read_text(encoding="utf-8").count(self.old) == 1


class Fault(NamedTuple):
    """What it breaks, in which list it stands, the changes that do it, the tests that must fail, pytest's ``-k``."""

    breaks: str
    area: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]
    select: str


def read(folder: Path = LISTS) -> list[Fault]:
    """All faults, in order."""
    return [_fault(path.stem, row) for path in sorted(folder.glob("*.toml")) for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))["fault"]


def _fault(area: str, row: dict[str, Any]) -> Fault:
    changes = tuple(Change(part["file"], part["old"], part["new"]) for part in [row, *row.get("more", [])])
    return Fault(row["breaks"], area, changes, tuple(row["tests"]), row.get("select", ""))


class Copy:
    """A copy of the project as it is, in which faults are planted and tests run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        paths = [str(folder / part) for part in ("protocol", "sidecar", "packaging", "tests")]
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

    def test(self, tests: tuple[str, ...], select: str, seconds: float | None = None) -> tuple[int, str]:
        """pytest's status (-1: it had to be stopped) and the first test that failed."""
        words = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", *tests, *(["-k", select] if select else [])]
        try:
            done = subprocess.run(
                words, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return -1, "not over in time"
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return done.returncode, failed[1].removeprefix("tests/") if failed else ""

    def test_with(self, fault: Fault) -> tuple[int, str]:
        """As :meth:`test`, with ``fault`` in the copy."""
        kept = {change.file: (self._folder / change.file).read_bytes() for change in fault.changes}
        try:
            for change in fault.changes:
                path = self._folder / change.file
                path.write_text(path.read_text(encoding="utf-8").replace(change.old, change.new), encoding="utf-8")
            return self.test(fault.tests, fault.select, _SECONDS)
        finally:
            for name, data in kept.items():
                (self._folder / name).write_bytes(data)


def main() -> int:
    """Run; 0 when every fault is noticed."""
    parser = argparse.ArgumentParser(description="Plant faults and see the tests fail.")
    parser.add_argument("areas", nargs="*", help="lists to take (all)")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose sentence holds this")
    options = parser.parse_args()
    faults = [f for f in read() if (not options.areas or f.area in options.areas) and options.only in f.breaks]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for select in dict.fromkeys(fault.select for fault in faults):
            tests = tuple(dict.fromkeys(test for fault in faults if fault.select == select for test in fault.tests))
            status, failed = copy.test(tests, select)
            if status != 0:
                print(f"without any fault the tests must pass; they ended with {status}: {failed}")
                return 1
        for fault in faults:
            began = time.monotonic()
            if all(change.stands_once(ROOT) for change in fault.changes):
                status, failed = copy.test_with(fault)
                outcome = _MEANS.get(status, f"STATUS {status}")
            else:
                outcome, failed = "STALE", ""
            rows.append({"area": fault.area, "breaks": fault.breaks, "outcome": outcome, "test": failed})
            seconds = time.monotonic() - began
            print(f"{outcome:9} {seconds:5.1f} s  {fault.area}: {fault.breaks}  [{failed}]", flush=True)
    noticed = sum(row["outcome"] == "noticed" for row in rows)
    print(json.dumps({"faults": len(rows), "noticed": noticed, "rows": rows}))
    return 0 if noticed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
