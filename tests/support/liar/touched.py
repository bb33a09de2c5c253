"""Which checks a lie can bear on: those in which it changes, adds or leaves out something of what crosses the pipes.

What crosses them in each check is recorded once with the implementation itself; then each lie is played the lines, in
order, without a process. A check of which a lie passes on every line as it was cannot tell it from the implementation.
A lie that does more than pass lines on (it reads in another way, or does not end) is taken to bear on all checks.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, defaultdict
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

from locara_conformance import lab, peer, runner
from locara_conformance.checks import CHECKS
from locara_conformance.outcomes import Outcome
from support.liar import LIES
from support.liar.base import Honest, parsed

_BEYOND_LINES = {"lines_in", "at_end_of_input", "at_end_of_output", "host_left", "not_ready", "write", "stderr"}
"""Members of :class:`Honest` by which a lie does what no line shows."""
_LONG = 32 << 10
_LONGEST = 1 << 20  # of longer lines a liar looks at nothing but their length


def record(command):
    """``[(check, process, way, line), …]`` of a run of all checks, which must succeed.

    :param command: the implementation itself.
    """
    now, found = [runner.FIRST], []

    kept = []  # alive, so that no two have the same id

    class Recording(peer.Peer):
        def send_line(self, line, ending=b"\n", **more):
            kept.append(self)
            found.append((now[0], id(self), ">", _short(line + ending.removesuffix(b"\n"))))
            super().send_line(line, ending, **more)

        def _line(self, line):
            found.append((now[0], id(self), "<", line))
            super()._line(line)

    def told(check):
        def run(its_lab):
            now[0] = check.id
            return check.run(its_lab)

        return replace(check, run=run)

    with mock.patch.object(lab, "Peer", Recording):
        results = runner.run(command, [told(one) for one in CHECKS.values()])
    wrong = [one.check.id for one in results if one.outcome not in (Outcome.SUCCESS, Outcome.WARNING)]
    if wrong:
        raise RuntimeError(f"the implementation itself does not do: {', '.join(wrong)}")
    return thinned(found)


def thinned(recorded):
    """Without the further ones of many long lines, which are all alike: floods of answers that a check makes."""
    found, many = [], Counter()
    for check, process, way, line in recorded:
        if not isinstance(line, int) and len(line) > _LONG:
            many[check, process, way] += 1
            if many[check, process, way] > 3:
                continue
        found.append((check, process, way, line))
    return found


def _short(line):
    """A line as it is, or one that is as long and all of one letter."""
    return bytes(line) if len(line) < _LONGEST else len(line)


def bears_on(lie, recorded):
    """The ids of the checks that ``lie`` bears on."""
    kind = LIES[lie]
    if any(name in vars(one) for one in kind.__mro__[: kind.__mro__.index(Honest)] for name in _BEYOND_LINES):
        return set(CHECKS)
    found = set()
    if any("on_signal" in vars(one) for one in kind.__mro__[: kind.__mro__.index(Honest)]):
        found |= {id for id in CHECKS if id.startswith("signals.")}
    by_process = defaultdict(list)
    for check, process, way, line in recorded:
        by_process[process].append((check, way, line))
    for lines in by_process.values():
        found |= _played(kind, lines)
    return found


def _played(kind, lines):
    """The checks in which a process of ``lines`` would have been another one with the lie before it."""
    found, did = set(), []

    class Played(kind):  # pyright: ignore[reportUntypedBaseClass]
        def write(self, data):
            did.append(data)

    def done(*_args):
        did.append(b"")
        return 1

    liar = Played.__new__(Played)
    liar.lock, liar.methods, liar.writes = threading.RLock(), {}, None
    liar.child = SimpleNamespace(stdin=SimpleNamespace(write=done, close=done), send_signal=done, kill=done)
    changed = False  # what the implementation got; it may be another one from then on
    with mock.patch.object(os, "write", done), mock.patch.object(os, "_exit", done):
        with mock.patch.object(threading.Thread, "start", done):
            liar.started()
        for check, way, line in lines:
            if isinstance(line, int):
                line = b"x" * line
            if way == ">":
                message = parsed(line) if len(line) < _LONGEST else None
                liar.came(message)
                changed |= not _same(liar.passed(liar.inward, line, message), line)
            else:
                message = parsed(line)
                waiting = liar.waiting_for(message) if isinstance(message, dict) else None
                if not _same(liar.passed(liar.outward, line, message), line):
                    found.add(check)
                if waiting:
                    waiting[0].pop(waiting[1])
            if did or changed:
                found.add(check)
                changed |= bool(did) and way == ">"
                did.clear()
    return found


def _same(out, line):
    """Whether what goes on is what came, be it spelt in another way."""
    if list(out) == [line]:
        return True
    if len(out) != 1 or (b"\r" in out[0]) != (b"\r" in line) or parsed(line) is None:
        return False
    return json.dumps(parsed(out[0])) == json.dumps(parsed(line))
