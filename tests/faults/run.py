"""Plants each fault from the lists beside this file in a copy of the tree, and runs the tests that must then fail.

A fault is one sentence that the project promises, and the smallest change that breaks it::

    [[fault]]
    breaks = "a line over the limit is reported and not read"
    file = "protocol/locara_protocol/framing.py"
    symbol = "LineSplitter._end_line"  # a class, a function, a method, or a name that is assigned
    old = "length > self._max"  # code that occurs exactly once in its definition
    new = "length > self._max + 1"
    tests = ["tests/protocol/test_framing.py"]
    select = "…"     # pytest's -k, if need be
    more = [{ file, … }]   # if one change is not enough

``old`` and ``new`` are both an expression, or both one or more statements, arguments of a call or elements of a list
(``wait=True``), entries of a dictionary (``"size": 3``), or the first line of a compound statement (``if busy:``).
Their syntax trees are compared, so that line breaks, quotes and comments do not matter, nor does the rest of the file.
If ``new`` is empty, the statements, arguments, elements or entries are removed. Instead of ``old`` and ``new``::

    replace = "…"    # another value: of the assignment, or of the function's only return
    body = "…"       # another body of the function, whose docstring stays

Where no symbol can be named (in other languages, at the top level of a module, inside a long text), a row has no
``symbol``, and ``old`` is quoted from the file, in which it occurs exactly once.

First all named tests run once without a fault; a test that fails gets a second try by itself, because a busy machine
is slow. The faults of a test that fails again are not planted (UNSOUND), since they would show nothing; nor are those
whose tests cannot be collected. A fault is noticed when its tests then fail (not when they cannot be collected: such a
fault breaks too much to show anything). Prints one line per fault, then a line of JSON; ends with 1 if a fault is not
noticed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # if this is run as a script

from faults import forked_tests
from faults.fragments import with_code
from faults.symbols import with_body, with_value

ROOT = Path(__file__).parents[2]
LISTS = Path(__file__).parent
_SECONDS = 300
_TEST_SECONDS = 120  # twice the usual limit: a machine that runs this for half an hour has other work, too
_MEANS = {0: "UNNOTICED", 1: "noticed", -1: "noticed"}


class Change(NamedTuple):
    """A change to ``file``, which is relative to the project: ``old`` becomes ``new``, in the definition of ``symbol``
    if one is named, or ``symbol`` gets another value (``replace``) or ``body``."""

    file: str
    old: str = ""
    new: str = ""
    symbol: str = ""
    replace: str = ""
    body: str = ""

    def planted(self, root: Path) -> str:
        """The file's text with the fault.

        :raises LookupError: what it changes does not occur exactly once, or would not change.
        """
        source = (root / self.file).read_text(encoding="utf-8")
        if not self.symbol:
            if source.count(self.old) != 1:
                raise LookupError(f"{self.old!r} is not once in {self.file}")
            changed = source.replace(self.old, self.new)
        elif self.old:
            changed = with_code(source, self.symbol, self.old, self.new)
        elif self.body:
            changed = with_body(source, self.symbol, self.body)
        else:
            changed = with_value(source, self.symbol, self.replace)
        if changed == source:
            raise LookupError(f"nothing of {self.file} is changed")
        return changed


class Fault(NamedTuple):
    """What it breaks, the list it is in, the changes that break it, the tests that must fail, pytest's ``-k``."""

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
    parts = [{name: part[name] for name in Change._fields if name in part} for part in [row, *row.get("more", [])]]
    changes = tuple(Change(**part) for part in parts)
    return Fault(row["breaks"], area, changes, tuple(row["tests"]), row.get("select", ""))


def _known_at(commit: str) -> set[Fault]:
    """Return the faults that the lists had at a commit, wherever the lists were then."""
    found: set[Fault] = set()
    for path in map(Path, _git("ls-tree", "-r", "--name-only", commit).splitlines()):
        if path.parent.name == LISTS.name and path.suffix == ".toml":
            rows = tomllib.loads(_git("show", f"{commit}:{path}"))["fault"]
            found.update(_fault(path.stem, row) for row in rows)
    return found


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


class Copy:
    """A copy of the working tree, in which faults are planted and tests run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def test(self, tests: tuple[str, ...], select: str, seconds: float | None = None) -> tuple[int, str]:
        """Return pytest's status (-1: it had to be stopped) and the first failed test, perhaps with its reason."""
        status, failed = self._pytest("-x", *tests, select=select, seconds=seconds)
        if status == -1:
            return -1, "not over in time"
        return status, failed[0].removeprefix("tests/") if failed else ""

    def unsound(self, tests: tuple[str, ...], select: str) -> list[str]:
        """Return the test functions that fail without a fault twice: with the others and by themselves.

        :raises ValueError: no tests can be collected.
        """
        status, failed = self._pytest(*tests, select=select)
        if status not in {0, 1} or (status and not failed):
            raise ValueError(f"without any fault the tests must pass; they ended with {status}: {' '.join(failed)}")
        functions = dict.fromkeys(name.partition(" ")[0].partition("[")[0] for name in failed)
        return [name for name in functions if self._pytest(name)[0] != 0]

    def _pytest(self, *words: str, select: str = "", seconds: float | None = None) -> tuple[int, list[str]]:
        more = ["-k", select] if select else []
        return forked_tests.run(["-o", f"timeout={_TEST_SECONDS}", *words, *more], self._folder, seconds)

    def test_with(self, fault: Fault) -> tuple[int, str]:
        """Do the same as :meth:`test` with ``fault`` in the copy."""
        kept = {change.file: (self._folder / change.file).read_bytes() for change in fault.changes}
        try:
            for change in fault.changes:
                (self._folder / change.file).write_text(change.planted(self._folder), encoding="utf-8")
            return self.test(fault.tests, fault.select, _SECONDS)
        finally:
            for name, data in kept.items():
                (self._folder / name).write_bytes(data)


def main() -> int:
    """Run; return 0 if every fault is noticed."""
    parser = argparse.ArgumentParser(description="Plant faults and see the tests fail.")
    parser.add_argument("areas", nargs="*", help="lists to take (all)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="faults whose sentence holds this, or another such text",
    )
    parser.add_argument("--since", metavar="COMMIT", help="faults that the lists did not have then")
    options = parser.parse_args()
    faults = [
        fault
        for fault in read()
        if (not options.areas or fault.area in options.areas)
        and (not options.only or any(text in fault.breaks for text in options.only))
    ]
    if options.since:
        known = _known_at(options.since)
        faults = [fault for fault in faults if fault not in known]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        forked_tests.import_libraries()
        unsound = {select: _unsound(copy, _tests(faults, select), select) for select in {f.select for f in faults}}
        for fault in faults:
            began = time.monotonic()
            row = _row(copy, fault, unsound[fault.select])
            rows.append(row)
            seconds = time.monotonic() - began
            print(f"{row['outcome']:9} {seconds:5.1f} s  {fault.area}: {fault.breaks}  [{row['test']}]", flush=True)
    noticed = sum(row["outcome"] == "noticed" for row in rows)
    print(json.dumps({"faults": len(rows), "noticed": noticed, "rows": rows}))
    return 0 if noticed == len(rows) else 1


def _tests(faults: list[Fault], select: str) -> tuple[str, ...]:
    """Return all tests of the faults with this ``-k``, each once."""
    return tuple(dict.fromkeys(test for fault in faults if fault.select == select for test in fault.tests))


def _unsound(copy: Copy, tests: tuple[str, ...], select: str) -> list[str] | str:
    """Do the same as :meth:`Copy.unsound`, but return the message if no tests can be collected."""
    try:
        return copy.unsound(tests, select)
    except ValueError as error:
        return str(error)


def _row(copy: Copy, fault: Fault, unsound: list[str] | str) -> dict[str, str]:
    """Plant a fault and return what came of it; ``unsound`` is a message if its tests cannot be collected."""
    if isinstance(unsound, str):
        failed = unsound
    else:
        failed = next((name for name in unsound if name.startswith(fault.tests)), "")
    outcome = "UNSOUND"
    if not failed:
        try:
            status, failed = copy.test_with(fault)
            outcome = _MEANS.get(status, f"STATUS {status}")
        except LookupError as error:
            outcome, failed = "STALE", str(error)
    return {"area": fault.area, "breaks": fault.breaks, "outcome": outcome, "test": failed}


if __name__ == "__main__":
    sys.exit(main())
