"""``make campaign-daemon``: hosts and engines that die, hang, flood and stop reading, as often as the flags say.

Uses the fake engine. Every zero stands beside the same attempt against a daemon with a fault planted in it,
which must be found.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns import dying, hostile
from campaigns.report import Row, show
from campaigns.session import PLANTS

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_GROWTH = 16.0  # MiB, when the host does not read
_MAX_LINE_GROWTH = 16.0 + 32.0  # MiB: the limit of a line, and 32 over it


def _dead(name: str, goal: str, attempt: Callable[[], dying.Found]) -> Row:
    began = time.monotonic()
    found = attempt()
    figure = f"{len(found.wrong)} of {len(found.seconds)}"
    note = f"worst {found.worst:.3f} s" + (f"; first: {found.wrong[0]}" if found.wrong else "")
    return Row(name, figure, f"0 ({goal})", not found.wrong, time.monotonic() - began, note)


def _planted(name: str, attempt: Callable[[], object]) -> Row:
    """Return the row of a fault that must be found: ``attempt`` returns what it found, which is false if it was
    nothing."""
    began = time.monotonic()
    found = attempt()
    return Row(f"planted: {name}", "found" if found else "not found", "found", bool(found), time.monotonic() - began)


def deaths(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Kill hosts and engines, and make engines hang."""
    chance = random.Random(options.seed)
    return [
        _dead("hosts whose daemon stayed", "gone in 2 s", lambda: dying.kill_hosts(folder, options.hosts, chance)),
        _planted(
            "nobody watches the host",
            lambda: dying.kill_hosts(folder, 2, chance, PLANTS["nobody watches the host"], held=True).wrong,
        ),
        _dead(
            "engine deaths told wrong", "told in 250 ms", lambda: dying.kill_engines(folder, options.engines, chance)
        ),
        _planted(
            "a crash is not told",
            lambda: dying.kill_engines(folder, 2, chance, PLANTS["a crash is not told"]).wrong,
        ),
        _dead("hangs not ended", "deadline + 2 s", lambda: dying.hang_engines(folder, options.hangs)),
        _planted("no stall deadline", lambda: dying.hang_engines(folder, 1, PLANTS["no stall deadline"]).wrong),
    ]


def silence(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Run hosts that do not read."""
    rows: list[Row] = []
    began = time.monotonic()
    runs = [hostile.stop_reading(folder) for _ in range(options.silent)]
    rows.append(_growth("the host stops reading: growth", runs, time.monotonic() - began))
    rows.append(
        _planted(
            "frames wait without bound",
            lambda: hostile.stop_reading(folder, PLANTS["frames wait without bound"])[0] > _MAX_GROWTH,
        )
    )
    began = time.monotonic()
    runs = [hostile.only_write(300_000) for _ in range(options.silent)]
    rows.append(_growth("the host only writes: growth", runs, time.monotonic() - began))
    rows.append(
        _planted(
            "the host is never held back",
            lambda: hostile.only_write(300_000, PLANTS["the host is never held back"])[0] > _MAX_GROWTH,
        )
    )
    return rows


def _growth(name: str, runs: list[tuple[float, list[str]]], seconds: float) -> Row:
    most = max((grown for grown, _ in runs), default=0.0)
    wrong = [text for _, texts in runs for text in texts]
    note = (
        f"worst of {len(runs)}; nothing lost, no hole" if not wrong else f"{len(wrong)} wrong, first: {wrong[0][:120]}"
    )
    return Row(name, f"{most:.1f} MiB", f"<= {_MAX_GROWTH:g} MiB", most <= _MAX_GROWTH and not wrong, seconds, note)


def wire(folder: Path, options: argparse.Namespace) -> list[Row]:
    """Send long lines, foreign bytes and hostile JSON."""
    rows: list[Row] = []
    began = time.monotonic()
    lines = list(hostile.long_lines(options.line_mib << 20))
    name, most, _ = max(lines, key=lambda one: one[1])
    lost = [name for name, _, answered in lines if not answered]
    note = f"{len(lines)} lines, worst after {name}" + (f"; not answered: {lost}" if lost else "")
    met = most <= _MAX_LINE_GROWTH and not lost
    rows.append(
        Row(
            "long lines: growth", f"{most:.1f} MiB", f"<= {_MAX_LINE_GROWTH:g} MiB", met, time.monotonic() - began, note
        )
    )
    rows.append(
        _planted(
            "no limit for a line",
            lambda: any(
                grown > _MAX_LINE_GROWTH
                for _, grown, _ in hostile.long_lines(64 << 20, "--max-line-bytes", str(1 << 40))
            ),
        )
    )
    began = time.monotonic()
    total, foreign = hostile.shout(folder, options.shouts)
    rows.append(
        Row("foreign lines on stdout", f"{foreign} of {total}", "0", foreign == 0 < total, time.monotonic() - began)
    )
    rows.append(_planted("stdout is not claimed", lambda: hostile.shout(folder, 2, PLANTS["stdout is not claimed"])[1]))
    began = time.monotonic()
    sent, wrong = hostile.hostile_json(options.json, options.seed)
    note = wrong[0][:200] if wrong else "no crash, no hang, each answered as often as it asked"
    rows.append(
        Row("hostile lines answered wrong", f"{len(wrong)} of {sent}", "0", not wrong, time.monotonic() - began, note)
    )
    rows.append(
        _planted(
            "what is no request is dropped",
            lambda: hostile.hostile_json(500, options.seed, PLANTS["what is no request is dropped"])[1],
        )
    )
    return rows


def main() -> int:
    """Return 0 if every goal is met and every planted fault is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000, help="hosts that are killed (1000)")
    parser.add_argument("--engines", type=int, default=1000, help="engines that are killed (1000)")
    parser.add_argument("--hangs", type=int, default=100, help="engines that hang (100)")
    parser.add_argument("--silent", type=int, default=3, help="hosts that stop reading (3)")
    parser.add_argument("--line-mib", type=int, default=1024, help="the longest line in MiB (1024)")
    parser.add_argument("--shouts", type=int, default=100, help="jobs with noise (100)")
    parser.add_argument("--json", type=int, default=1_000_000, help="hostile lines (1,000,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("deaths", "silence", "wire"), help="one part")
    options = parser.parse_args()
    if sys.platform != "linux":
        print("This campaign needs fork, pidfd and /proc, which only Linux has.", file=sys.stderr)
        return 2
    parts = {"deaths": deaths, "silence": silence, "wire": wire}
    with tempfile.TemporaryDirectory(prefix="locara-campaign-") as name:
        rows = [row for part, run in parts.items() if options.only in (None, part) for row in run(Path(name), options)]
    return show("daemon", rows)


if __name__ == "__main__":
    sys.exit(main())
