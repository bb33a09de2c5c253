"""``make campaign-lies``: each deliberately broken implementation against all MUSTs that its lie affects.

It must be caught by the checks that are meant to catch it, and by no other MUST except those that
``tests/support/liar/besides.py`` gives a reason for. What a lie can affect is found by replaying to it what crosses the
pipes of the real implementation (:mod:`support.liar.touched`); ``--all`` runs every check for every lie instead.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from campaigns.report import Row, show
from locara_conformance import runner
from locara_conformance.checks import CHECKS, chosen
from locara_conformance.outcomes import Outcome
from support import liar
from support.host import command
from support.liar import LIES, touched
from support.liar.besides import ALSO
from support.liar.caught import CAUGHT

MUSTS = frozenset(id for id, one in CHECKS.items() if one.level == "MUST")


def due(lie: str) -> set[str]:
    """Return the MUSTs that must fail."""
    return {*CAUGHT.get(lie, ()), *ALSO.get(lie, {})}


def broken(lie: str, checks: set[str], timeout: float) -> dict[str, str]:
    """Return which of ``checks`` fail, and which of those that are always watched, each with the reason."""
    spawned = liar.command(lie, *command("--engine", "fake"))
    results = runner.run(spawned, chosen(sorted(checks & MUSTS)) if checks else [], timeout=timeout)
    untried = f"{runner.FIRST} does not hold"  # of a check that was not run for it
    wrong = {
        one.check.id: one.reason
        for one in results
        if one.outcome is Outcome.FAILURE and (one.check.id in due(lie) or not one.reason.startswith(untried))
    }
    wrong |= {one.check.id: f"the harness: {one.reason}" for one in results if one.outcome is Outcome.ERROR}
    return wrong | {one.check.id: "the liar itself failed" for one in results if "Traceback" in one.stderr}


def tried(lie: str, checks: set[str]) -> dict[str, Any]:
    """One lie: the checks that it affects and its own. Unexpected outcomes are retried separately, with more time."""
    began = time.monotonic()
    ran = checks | due(lie)
    found = broken(lie, ran, 3)
    doubtful = {id for id in found.keys() ^ due(lie) if not (id in found and CHECKS[id].watched)}
    if doubtful:
        again: dict[str, str] = {}
        for id in sorted(doubtful):
            again |= {at: why for at, why in broken(lie, {id}, 10).items() if at == id}
        found = {id: why for id, why in found.items() if id not in doubtful} | again
    return {
        "lie": lie,
        "checks": len(ran & MUSTS),
        "missed": sorted(due(lie) - found.keys()),
        "besides": {id: why for id, why in found.items() if id not in due(lie)},
        "seconds": time.monotonic() - began,
    }


def main() -> int:
    """Return the exit status: 0 if each lie is caught by its own checks and by no other."""
    parser = argparse.ArgumentParser(prog="make campaign-lies")
    parser.add_argument("--lies", nargs="*", default=[], metavar="LIE", help="only these")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every Nth lie, from the Ith")
    parser.add_argument("--at-once", type=int, default=3, metavar="N", help="lies that run at the same time (3)")
    parser.add_argument("--all", action="store_true", help="all MUSTs, also those that the lie cannot bear on")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep what crosses the pipes, for more shards")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a line a lie; those in it are not run again")
    options = parser.parse_args()
    first, of = (int(number) for number in options.shard.split("/"))
    lies = (options.lies or list(LIES))[first - 1 :: of]
    done = [json.loads(line) for line in options.json.read_text().splitlines()] if _there(options.json) else []
    bears = _bears(options, [lie for lie in lies if lie not in {one["lie"] for one in done}])

    def one(lie: str) -> dict[str, Any]:
        result = tried(lie, bears[lie])
        if options.json:
            with options.json.open("a") as file:
                file.write(json.dumps(result) + "\n")
        print(f"{lie}: {result['besides'] or 'nothing besides'}, missed {result['missed'] or 'nothing'}", flush=True)
        return result

    with ThreadPoolExecutor(options.at_once) as pool:
        done += list(pool.map(one, bears))
    return show("lies", [_row(one) for one in done if one["lie"] in lies])


def _there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _bears(options: argparse.Namespace, lies: list[str]) -> dict[str, set[str]]:
    """The checks to run for each lie; lies with few checks come first, so that most results are known soon."""
    if options.all or not lies:
        return {lie: set(CHECKS) for lie in lies}
    if _there(options.record):
        recorded = pickle.loads(options.record.read_bytes())
    else:
        print("recording what crosses the pipes of the implementation itself", flush=True)
        recorded = touched.record(command("--engine", "fake"))
        if options.record:
            options.record.write_bytes(pickle.dumps(recorded))
    found = {lie: set(CHECKS) if lie == "Honest" else touched.bears_on(lie, recorded) for lie in lies}
    return dict(sorted(found.items(), key=lambda pair: len(pair[1])))


def _row(one: dict[str, Any]) -> Row:
    wrong = [f"missed {id}" for id in one["missed"]] + [f"{id}: {why[:160]}" for id, why in one["besides"].items()]
    return Row(
        one["lie"], f"{len(wrong)} of {one['checks']}", "0 (no other MUST)", not wrong, one["seconds"], "; ".join(wrong)
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    assert sys.platform != "win32"
    for ignored in (signal.SIGHUP, signal.SIGINT):  # in the background; what is spawned would ignore them, too
        signal.signal(ignored, signal.SIG_DFL)
    sys.exit(main())
