"""Engines in this process's memory, for tests of the client: the fake engine in a thread, and a scripted one."""

# pyright: reportMatchNotExhaustive=false
from __future__ import annotations

import queue
import threading

from locara_sidecar.daemon.engine_host.transport.in_memory import InMemory
from locara_sidecar.engine.fake_engine import faults
from locara_sidecar.engine.fake_engine.runtime import FakeRuntime
from locara_sidecar.engine.job import run_job
from locara_sidecar.engine.load import run_load, run_prepare
from locara_sidecar.engine.worker import JobControl
from locara_sidecar.ipc import frames, framing
from support.engine_frames import enter, ready

RUN = {frames.JobSpec: run_job, frames.LoadSpec: run_load, frames.PrepareSpec: run_prepare}


class Engines(InMemory):
    """A transport that remembers every engine it started; each new engine must find its predecessors gone.

    :param make: makes the function behind each connection.
    """

    def __init__(self, make):
        super().__init__(make)
        self.started = []

    def start(self, opening, **listeners):
        assert not [engine for engine in self.started if engine.alive]
        self.started.append(super().start(opening, **listeners))
        return self.started[-1]


class Control(JobControl):
    """Also stop the job of an engine that was killed."""

    def __init__(self, job, connection):
        self._asked = False
        self._connection = connection
        super().__init__(job, connection.say)

    @property
    def cancelled(self):
        return self._asked or not self._connection.alive

    @cancelled.setter
    def cancelled(self, asked):
        self._asked = asked


class FakeEngine:
    """What ``engine/worker.py`` does with the fake engine's runtime, but without a process, so no fault may end it."""

    def __init__(self):
        self._jobs = queue.SimpleQueue()
        self._known = {}
        self._pieces = framing.Pieces()

    def __call__(self, connection, command):
        match command:
            case frames.Start():
                threading.Thread(target=self._run, args=(connection, command), daemon=True).start()
            case frames.Piece():
                self._pieces.add(command)
            case frames.Generate() | frames.Load() | frames.Prepare():
                spec = self._pieces.whole(command) if isinstance(command, frames.Generate) else command.spec
                assert not deadly(getattr(spec, "prompt", "")), "this takes a process"
                self._known[spec.job] = Control(spec.job, connection)
                self._jobs.put(spec)
            case frames.Cancel(job=job):
                if job in self._known:
                    self._known[job].cancelled = True
            case frames.Exit() | None:
                connection.end()

    def _run(self, connection, start):
        assert not deadly(start.settings.get("faults", "")), "this takes a process"
        runtime = FakeRuntime(start.scratch, start.settings)
        connection.say(ready(start))

        def report(what, error):
            connection.say(frames.Log(level="error", logger="engine.worker", msg=f"{what}: {type(error).__name__}"))

        while connection.alive:
            try:
                spec = self._jobs.get(timeout=0.5)  # then check whether it was killed
            except queue.Empty:
                continue
            last = RUN[type(spec)](runtime, spec, self._known[spec.job], connection.say, report)
            del self._known[spec.job]
            connection.say(last)


def deadly(text):
    """Return the faults in ``text`` that would end or stop this process."""
    return faults._DEADLY.keys() & faults.parse(text).keys()


class Played:
    """An engine that a test scripts; by default it is ready at once, draws nothing and obeys.

    :param on_job: called with the connection and the spec of a job; None: nothing is said of it.
    :param on_cancel: the same, for a cancel of a job that has not ended.
    :param on_start: called with the connection and the Start.
    :param stays: it does not end when it is told to.
    """

    def __init__(self, on_job=None, on_cancel=None, on_start=None, *, stays=False):
        self._on_job = on_job
        self._on_cancel = on_cancel
        self._on_start = on_start or (lambda connection, start: connection.say(ready(start)))
        self._stays = stays
        self._spec = None
        self.heard = []

    def __call__(self, connection, command):
        self.heard.append(command)
        match command:
            case frames.Start():
                self._on_start(connection, command)
            case frames.Generate(spec=spec) | frames.Load(spec=spec) | frames.Prepare(spec=spec):
                self._spec = spec
                if self._on_job is not None:
                    self._on_job(connection, spec)
            case frames.Cancel():
                if self._on_cancel is not None:
                    self._on_cancel(connection, self._spec)
            case frames.Exit() | None if not self._stays:
                connection.end()


def in_turn(*acts):
    """Return what an engine does with its first job, its second and so on; the last entry repeats."""
    left = list(acts)

    def act(connection, spec):
        (left.pop(0) if len(left) > 1 else left[0])(connection, spec)

    return act


def enters(phase):
    """Return a test for whether an event begins that phase."""
    return lambda event: isinstance(event, frames.PhaseStarted) and event.phase == phase


async def works(client, spec):
    """Require that the next job succeeds; return its answer."""
    done = await client.make(spec(job="next"))
    assert len(client.of(frames.Image)) == 1
    return done


def dies(phase, **how):
    """Return what an engine does with a job during which it exits."""

    def act(connection, spec):
        if phase is not None:
            enter(connection, spec, phase)
        connection.end(**how)

    return act


def silent(connection, spec):
    """Report that a phase begins, and nothing more."""
    enter(connection, spec)
