"""Which checks a lie can affect: those in which it changes, adds or omits something that crosses the pipes.

What crosses them in each check is recorded once with the implementation itself; then the lines are replayed to each
lie, in order, without a process. A check in which a lie passes on every line unchanged cannot distinguish it from the
implementation. What else a check does to a process is recorded, too (:data:`BEYOND`): a lie about the end of the input,
for example, affects the checks that end it, but not those after which it is ended.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

from locara_conformance import lab, peer, runner
from locara_conformance.checks import CHECKS
from locara_conformance.outcomes import Outcome
from support.liar import LIES
from support.liar.base import Honest, parsed

BEYOND = {
    "lines_in": {"pieces", "unread"},
    "at_end_of_input": {"end of input"},
    "host_left": {"through"},
    "write": {"unread"},
}
"""Members of :class:`Honest` through which a lie does something that no line shows, and what must happen for that.
``pieces``: a line came in pieces, or is longer than a pipe holds; ``unread``: the host stopped reading; ``through``:
another process than the host spawned it, which may die."""
_LONG = 32 << 10
_LONGEST = 1 << 20  # of longer lines a liar looks at nothing but the length
_PIPE = 4 << 10  # bytes that are always read at once
_SOON = 0.1


def record(command):
    """Return ``[(check, process, way, what), …]`` of a run of all checks, which must succeed.

    ``way`` is ``>`` with a line that was sent, ``<`` with one that came, ``x`` with the exit status, ``·`` with one of
    the words in :data:`BEYOND`, or ``+`` for a new process with its settings: ``flags``; ``nonblocking``, whether its
    pipes are; ``silent``, whether the host sent nothing at once.

    :param command: the implementation itself.
    """
    now, found = [runner.FIRST], []
    running = threading.Event()

    kept = []  # kept alive, so that no two have the same id

    class Recording(peer.Peer):
        def __init__(self, spawned, **more):
            kept.append(self)
            start = next(at for at in range(len(spawned)) if spawned[at : at + len(command)] == command)
            self.given = {"flags": spawned[start + len(command) :], "nonblocking": more["nonblocking"], "silent": True}
            self.within = False
            self.tell("+", self.given)
            if start:
                self.tell("·", "through")
            self.at = time.monotonic()
            super().__init__(spawned, **more)

        def tell(self, way, what):
            if way != "·" or running.is_set():  # between checks it is shut down
                found.append((now[0], id(self), way, what))

        def send_line(self, line, ending=b"\n", **more):
            self.tell(">", _short(line + ending.removesuffix(b"\n")))
            self.within = True
            if more or len(line) > _PIPE:
                self.tell("·", "pieces")
            super().send_line(line, ending, **more)
            self.within = False

        def write(self, data):
            if time.monotonic() - self.at < _SOON:
                self.given["silent"] = False
            if not self.within:
                self.tell("·", "pieces")
            super().write(data)

        def pause(self):
            self.tell("·", "unread")
            super().pause()

        def close_stdin(self):
            self.tell("·", "end of input")
            super().close_stdin()

        def wait_exit(self, timeout, after):
            status = super().wait_exit(timeout, after)
            self.tell("x", status)
            return status

        def wait_output_end(self, timeout, after):
            took = super().wait_output_end(timeout, after)
            self.tell("x", 0)
            return took

        def _line(self, line):
            self.tell("<", line)
            super()._line(line)

    def told(check):
        def run(its_lab):
            now[0] = check.id
            running.set()
            try:
                return check.run(its_lab)
            finally:
                running.clear()

        return replace(check, run=run)

    with mock.patch.object(lab, "Peer", Recording):
        results = runner.run(command, [told(one) for one in CHECKS.values()])
    wrong = [one.check.id for one in results if one.outcome not in (Outcome.SUCCESS, Outcome.WARNING)]
    if wrong:
        raise RuntimeError(f"the implementation itself does not do: {', '.join(wrong)}")
    return thinned(found)


def thinned(recorded):
    """Return the record without most of the long, similar lines in the floods of answers that a check causes."""
    found, many = [], Counter()
    for check, process, way, line in recorded:
        if isinstance(line, bytes) and len(line) > _LONG:
            many[check, process, way] += 1
            if many[check, process, way] > 3:
                continue
        found.append((check, process, way, line))
    return found


def _short(line):
    """Return the line unchanged, or a line of the same length made of one letter."""
    return bytes(line) if len(line) < _LONGEST else len(line)


def bears_on(lie, recorded):
    """Return the ids of the checks that ``lie`` can affect."""
    kind = LIES[lie]
    own = {name for one in kind.__mro__[: kind.__mro__.index(Honest)] for name in vars(one)}
    found = {id for id in CHECKS if id.startswith("signals.")} if "on_signal" in own else set()
    by_process = defaultdict(list)
    for check, process, way, what in recorded:
        by_process[process].append((check, way, what))
    for told in by_process.values():
        found |= _played(kind, own, told)
    return found


def _played(kind, own, told):
    """Return the checks in which the process recorded in ``told`` would have behaved differently with the lie before
    it.

    :param own: the members that the lie itself defines.
    """
    found, did = set(), []
    given: dict[str, Any] = {"flags": [], "nonblocking": False, "silent": False}
    given |= next((what for _, way, what in told if way == "+"), {})
    unready = [given["nonblocking"]]  # whether the lie is told that its output is full

    class Played(kind):  # pyright: ignore[reportUntypedBaseClass]
        def write(self, data):
            did.append(data)

    def done(*_args):
        did.append(b"")
        return 1

    def set_blocking(fd, blocking):
        unready[0] = not blocking if fd == 1 else unready[0]

    beyond = set().union(*(words for member, words in BEYOND.items() if member in own))
    liar = Played.__new__(Played)
    liar.lock, liar.methods, liar.writes = threading.RLock(), {}, None
    liar.child = SimpleNamespace(stdin=SimpleNamespace(write=done, close=done), send_signal=done, kill=done)
    changed = False  # what the implementation got; it may be another one from then on
    ready = ([], [], []) if given["silent"] else ([0], [1], [])
    with (
        mock.patch.object(os, "write", done),
        mock.patch.object(os, "_exit", done),
        mock.patch.object(os, "set_blocking", set_blocking),
        mock.patch.object(os, "get_blocking", return_value=not given["nonblocking"]),
        mock.patch.object(select, "select", return_value=ready),
        mock.patch.object(sys, "argv", ["liar", kind.__name__, "--", *given["flags"]]),
    ):
        with mock.patch.object(threading.Thread, "start", done):
            liar.started()
        changed = liar.stderr is not None
        for check, way, what in told:
            if way == ">":
                line = b"x" * what if isinstance(what, int) else what
                message = parsed(line) if len(line) < _LONGEST else None
                liar.came(message)
                changed |= not _same(liar.passed(liar.inward, line, message), line)
            elif way == "<":
                if "not_ready" in own and unready[0]:
                    liar.not_ready()
                message = parsed(what)
                waiting = liar.waiting_for(message) if isinstance(message, dict) else None
                if not _same(liar.passed(liar.outward, what, message), what):
                    found.add(check)
                if waiting:
                    waiting[0].pop(waiting[1])
            elif (way == "x" and liar.at_end_of_output(what) != what) or (way == "·" and what in beyond):
                found.add(check)
            if did or changed:
                found.add(check)
                changed |= bool(did) and way in ">+"
                did.clear()
    return found


def _same(out, line):
    """Return whether what is passed on equals what came, even if it is spelt differently."""
    if list(out) == [line]:
        return True
    if len(out) != 1 or (b"\r" in out[0]) != (b"\r" in line) or parsed(line) is None:
        return False
    return json.dumps(parsed(out[0])) == json.dumps(parsed(line))
