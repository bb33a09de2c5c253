"""``make campaign-hostile-engine``: an engine that a stranger's model has taken over, in the engines' real sandbox.

Every act of ``support/evil`` is done by the worker's own process, started by the daemon's own code, after its runtime
(torch, mlx) was imported: as root and, from root, as an ordinary user. The same acts are done without a sandbox, which
shows what each is worth: where the system itself refuses one to this user, the table says so. At the end nothing of the
user's may have changed, nothing may have been left behind, and when the process that started the engine is killed, the
engine, which no longer reads its pipe, must be gone.

What an engine *says* and what it makes are judged by the daemon, whichever engine it is: ``support/evil/hearing.py``
has a child say each lie of ``support/evil/lies.py`` to a real daemon, and make each thing of
``support/evil/making.py``. Prints a line for each act, engine and user, and one of JSON; exits with 1 if one does not
hold. (Acts are added as rows there.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from campaigns.report import Row, show
from locara_sidecar.machine.engine_choice import installed
from support.evil import hearing, running, users

if TYPE_CHECKING:
    from collections.abc import Iterable

_SECONDS = 60  # for a killed process to be gone; it takes milliseconds


def run(engine: str, user: str, parts: Iterable[str] = ()) -> list[Row]:
    """The rows of one engine, as one user ("root", another from root, or "" for whoever this is)."""
    assert sys.platform != "win32"
    began = time.monotonic()
    words = [sys.executable, "-m", "support.evil.running", engine, *parts]
    be = partial(users.become, user) if user not in ("", "root") else None
    try:
        runner = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=running.environment(),
            preexec_fn=be,
            cwd="/",
        )
    except subprocess.SubprocessError:  # no mount namespace for a user who may not enter root's home
        return [Row(f"{engine} as {user}: it starts", "skipped: not permitted", "yes", None, 0)]
    with runner:
        assert runner.stdout is not None
        line = runner.stdout.readline()
        runner.kill()
    if not line:
        return [Row(f"{engine} as {user}: it starts", "no", "yes", False, time.monotonic() - began)]
    found = json.loads(line)
    gone = _gone(found["pid"])
    with contextlib.suppress(OSError, ValueError), open(f"{found['folder']}/scratch/survivor") as file:
        os.kill(int(file.read()), signal.SIGKILL)
    shutil.rmtree(found["folder"], ignore_errors=True)
    return _rows(f"{engine} as {user}" if user else engine, found, gone, time.monotonic() - began)


def run_words(user: str, parts: Iterable[str] = ()) -> list[Row]:
    """Return the rows for what an engine says and writes to a daemon of that user."""
    began = time.monotonic()
    be = partial(users.become, user) if user not in ("", "root") else None
    words = [sys.executable, "-m", "support.evil.hearing", *parts]
    who = f"daemon as {user}" if user else "daemon"
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, env=running.environment(), preexec_fn=be, cwd="/", check=False
        )
    except subprocess.SubprocessError:
        return [Row(f"{who}: it starts", "skipped: not permitted", "yes", None, 0)]
    if done.returncode or not done.stdout:
        return [Row(f"{who}: it tells of all acts", f"status {done.returncode}", "yes", False, 0)]
    rows: list[Row] = []
    for row in json.loads(done.stdout):
        held = None if row["answer"].startswith("skipped") else not row["wrong"]
        name = f"{who}: {row['part']}: {row['name']}"
        rows.append(Row(name, row["answer"], "held", held, 0, "; ".join(row["wrong"])))
    rows[-1].seconds = time.monotonic() - began
    return rows


def _rows(who: str, found: dict[str, Any], gone: bool, seconds: float) -> list[Row]:
    free = {(row["part"], row["name"]): row["outcome"] for row in found["free"]}
    rows: list[Row] = []
    worth = 0
    for row in found["rows"]:
        outcome, alone = row["outcome"], free[row["part"], row["name"]]
        held = None if outcome.startswith("skipped") else outcome != "DONE"
        worth += held is True and alone == "DONE"
        note = "" if alone == "DONE" else f"without a sandbox: {alone}"
        rows.append(Row(f"{who}: {row['part']}: {row['name']}", outcome, "held", held, 0, note))
    changed, left = found["changed"], found["survivor"]
    rows += [
        Row(f"{who}: changed of the user's", ", ".join(changed) or "nothing", "nothing", not changed, 0),
        Row(f"{who}: children left behind", "one" if left else "none", "none", not left, 0),
        Row(f"{who}: alive after its daemon was killed", "no" if gone else "yes", "no", gone, 0),
        Row(f"{who}: held, and done without a sandbox", str(worth), "some", worth > 0, seconds),
    ]
    return rows


def _gone(pid: int) -> bool:
    """Return whether a process ends, even if nobody waits for it."""
    assert sys.platform != "win32"
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except OSError:
            return True
        time.sleep(0.05)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    return False


def main() -> int:
    """Return 0 if every act of every engine is blocked."""
    assert sys.platform != "win32"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=installed(), help="default: those that are installed")
    parser.add_argument("--users", nargs="+", default=["root", "nobody"] if os.getuid() == 0 else [""])
    parser.add_argument("--parts", nargs="*", default=[], help="parts of support/evil; default: all")
    parser.add_argument("--only", choices=["done", "said"], help="what is done in the sandbox, or said to the daemon")
    options = parser.parse_args()
    if sys.platform != "linux":
        print("This campaign is about Linux's sandbox.", file=sys.stderr)
        return 2
    said = {part for part, _ in hearing.acts()}
    rows: list[Row] = []
    if options.only != "said" and not said.issuperset(options.parts or [""]):
        rows += [
            row for engine in options.engines for user in options.users for row in run(engine, user, options.parts)
        ]
    if options.only != "done" and not said.isdisjoint(options.parts or said):
        rows += [row for user in options.users for row in run_words(user, options.parts)]
    return show("hostile-engine", rows)


if __name__ == "__main__":
    sys.exit(main())
