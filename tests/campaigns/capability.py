"""``make campaign-capability``: saving and reading against races, collisions and names, at the figures that are
promised.

Every zero stands beside the same attempt against a deliberately broken way, which must not be zero.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from campaigns import reading, saving
from campaigns.report import Row, show

_CONTROLS = 5
_CHUNK = 20_000  # collisions whose files lie on the disk at a time


def races(where: Path, saves: int) -> list[Row]:
    """Save in every way while links are swapped, and also in the naive way."""
    rows: list[Row] = []
    for resolution, kind in saving.WAYS:
        began = time.monotonic()
        found = saving.race(where / f"{resolution}-{kind}", saves // len(saving.WAYS), resolution, kind)
        note = f"{found.saved} saved, {found.refused} refused" + (f", also {set(found.other)}" if found.other else "")
        met = not found.escaped and found.saved > 0 and found.refused > 0 and not found.other
        figure = f"{found.escaped} of {found.saved + found.refused}"
        rows.append(Row(f"escapes, {resolution}, {kind}", figure, "0", met, time.monotonic() - began, note))
    began = time.monotonic()
    firsts = [saving.race_naive(where / f"naive{number}", 100_000) for number in range(_CONTROLS)]
    met = sorted(first or sys.maxsize for first in firsts)[_CONTROLS // 2] <= 1000
    figure = f"save {', '.join(str(first) for first in firsts)}"
    name = "planted: resolve and compare"
    return [*rows, Row(name, figure, "median within 1,000", met, time.monotonic() - began)]


def raced_reads(where: Path, reads: int) -> list[Row]:
    """Read in both ways while links are swapped, and also in the naive way."""
    rows: list[Row] = []
    for resolution in ("openat2", "walk"):
        began = time.monotonic()
        found = reading.race_reads(where / f"read-{resolution}", reads // 2, resolution)
        note = f"{found.read} read, {found.refused} refused" + (f", also {set(found.other)}" if found.other else "")
        met = not found.escaped and found.read > 0 and found.refused > 0 and not found.other
        figure = f"{found.escaped} of {found.read + found.refused}"
        rows.append(Row(f"read outside, {resolution}", figure, "0", met, time.monotonic() - began, note))
    began = time.monotonic()
    firsts = [reading.race_reads_naive(where / f"read-naive{number}", 100_000) for number in range(_CONTROLS)]
    met = sorted(first or sys.maxsize for first in firsts)[_CONTROLS // 2] <= 1000
    figure = f"read {', '.join(str(first) for first in firsts)}"
    name = "planted: resolve, compare and read"
    return [*rows, Row(name, figure, "median within 1,000", met, time.monotonic() - began)]


def collisions(where: Path, saves: int, workers: int) -> list[Row]:
    """Let several processes save under one name; as a control, also with a rename that overwrites."""
    rows: list[Row] = []
    for kind in ("anonymous", "named"):
        began, left, said, wrong = time.monotonic(), saves // 2, 0, 0
        while left > 0:
            done, bad = saving.collide(where / f"{kind}{left}", min(left, _CHUNK), workers, kind, saving.NoSync())
            left, said, wrong = left - _CHUNK, said + done, wrong + bad
        figure, met = f"{wrong} of {said}", wrong == 0 and said > 0
        rows.append(Row(f"overwritten, {kind}", figure, "0", met, time.monotonic() - began, f"{workers} processes"))
    began = time.monotonic()
    said, wrong = saving.collide(where / "clobbering", 2000, workers, "named", saving.Clobbering())
    planted = Row("planted: a rename that clobbers", f"{wrong} of {said}", "> 0", wrong > 0, time.monotonic() - began)
    return [*rows, planted]


def corpus(where: Path) -> list[Row]:
    """Try awkward names; as a control, also with a save that does not check names."""
    for folder in ("names", "naive"):
        (where / folder).mkdir()
    began = time.monotonic()
    tried, saved, outside = saving.try_names(where / "names")
    note = f"{saved} were harmless and saved"
    row = Row(
        "names that lead outside", f"{outside} of {tried}", "0", outside == 0 < saved, time.monotonic() - began, note
    )
    began = time.monotonic()
    naive = saving.try_names_naively(where / "naive", 5000)
    return [row, Row("planted: join and write", f"{naive} files", "> 0", naive > 0, time.monotonic() - began)]


def main() -> int:
    """Return 0 if every goal is met and every planted fault is caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=1_000_000, help="raced saves (1,000,000)")
    parser.add_argument("--reads", type=int, default=1_000_000, help="raced reads (1,000,000)")
    parser.add_argument("--collisions", type=int, default=100_000, help="saves that want one name (100,000)")
    parser.add_argument("--workers", type=int, default=4, help="processes that collide (4)")
    parser.add_argument("--folder", help="where to work (the temporary folder)")
    options = parser.parse_args()
    if sys.platform != "linux":
        print("This campaign needs fork and an atomic exchange of names, which only Linux has.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="locara-campaign-", dir=options.folder) as name:
        where = Path(name).resolve()
        rows = races(where, options.saves) + raced_reads(where, options.reads)
        rows += collisions(where, options.collisions, options.workers) + corpus(where)
    return show("capability", rows)


if __name__ == "__main__":
    sys.exit(main())
