"""How OpenMP's threads wait: which way is chosen when, and that the runtime follows."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs the torch extra", allow_module_level=True)

from locara_sidecar.engine.torch_engine import waiting
from locara_sidecar.engine.torch_engine.waiting import Waiting, teams

pytestmark = pytest.mark.torch
linux = pytest.mark.skipif(sys.platform != "linux", reason="GNU's runtime, and what Linux tells of delays")
_CLEAR = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


class Machine:
    """A clock and the delay that Linux would report, both advanced by hand."""

    def __init__(self):
        self.now = self.delayed = 0.0
        self.told = []
        self.waiting = Waiting(self.told.append, lambda: self.delayed, lambda: self.now)
        self.waiting.begin()

    def work(self, seconds, delay):
        """Work, with a check every 10 ms, while threads wait ``delay`` seconds per second for a core."""
        for _ in range(round(seconds * 100)):
            self.now += 0.01
            self.delayed += delay * 0.01
            self.waiting.tick()


def test_threads_spin_as_long_as_they_have_their_cores():
    machine = Machine()
    machine.work(60, 0.03)
    assert machine.told == []


def test_threads_sleep_soon_after_others_want_a_core_and_spin_again_once_they_do_not():
    machine = Machine()
    machine.work(0.25, 0.5)
    assert machine.told == [True]
    machine.work(60, 0.5)
    assert machine.told == [True]
    machine.work(1, 0.0)
    assert machine.told == [True, False]


def test_a_short_pause_of_the_others_is_not_taken_for_quiet():
    machine = Machine()
    machine.work(10, 0.5)
    for _ in range(20):
        machine.work(0.25, 0.0)
        machine.work(0.5, 0.5)
    assert machine.told == [True]


def test_a_moment_s_work_of_the_system_is_not_taken_for_a_busy_program():
    machine = Machine()
    for _ in range(20):
        machine.work(1, 0.0)
        machine.work(0.04, 0.9)
    assert machine.told == []


def test_spinning_that_was_wrong_is_tried_less_often_but_again_and_again():
    machine = Machine()
    spun = {}
    for second in range(200):  # other work that comes as soon as the threads spin
        for _ in range(100):
            spinning = not machine.waiting.sleeping
            machine.work(0.01, 0.5 if spinning else 0.0)
            spun[second] = spun.get(second, 0.0) + 0.01 * spinning
    assert 0.03 < sum(spun.values()) / 200 < 0.07
    assert all(sum(spun[second] for second in range(first, first + 6)) > 0 for first in range(190))
    machine.work(5, 0.0)
    assert not machine.waiting.sleeping


@pytest.mark.parametrize("seconds", [0.04, 0.1, 0.24, 0.4])
def test_short_jobs_add_up_to_what_a_long_one_finds(seconds):
    machine = Machine()

    def job(delay):
        machine.waiting.begin()
        machine.work(seconds, delay)
        machine.waiting.end()
        machine.now += 0.5
        machine.delayed += 0.5  # by threads that nobody waits for

    for _ in range(10):
        job(0.5)
    assert machine.told == [True]
    for _ in range(40):
        job(0.0)
    assert machine.told == [True, False]


def test_what_was_before_a_job_does_not_count():
    machine = Machine()
    machine.waiting.end()
    machine.now, machine.delayed = 3600.0, 1800.0
    machine.waiting.begin()
    machine.work(1, 0.0)
    assert machine.told == []


def test_a_thread_that_ends_takes_its_delay_with_it():
    machine = Machine()
    machine.delayed = 50.0
    machine.waiting.begin()
    machine.delayed = 0.0
    machine.waiting.end()
    machine.waiting.begin()
    machine.work(1, 0.0)
    assert machine.told == []


@pytest.mark.parametrize(
    ("threads", "processors"), [(2, 2), (2, 3), (8, 8), (8, 16), (9, 16), (4, 16), (2, 64), (64, 64), (96, 192)]
)
def test_idle_teams_make_more_threads_than_processors_and_no_team_too_many(threads, processors):
    def managed(further):
        return 1 + (threads - 1) * (1 + further)

    assert managed(teams(threads, processors)) > processors
    assert teams(threads, processors) == 1 or managed(teams(threads, processors) - 1) <= processors


def child(script: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in _CLEAR}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, env={**clean, **environment}, check=True, capture_output=True, text=True, timeout=120
    )
    return done.stdout


_SPUN = """
import json, os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])   # before OpenMP counts them
import time, torch
from pathlib import Path
from locara_sidecar.engine.torch_engine.waiting import IdleTeams
torch.set_num_threads(2)

def spent():
    # by the threads that were there: the team's others, without the one that Python runs on
    return sum(int(Path(f"/proc/self/task/{task}/schedstat").read_text().split()[0]) for task in team) / 1e9

def rate():
    began, before = time.perf_counter(), spent()
    while time.perf_counter() - began < 1:
        numbers.add_(1)
        time.sleep(0.001)
    return (spent() - before) / (time.perf_counter() - began)

before = {task.name for task in Path("/proc/self/task").iterdir()}
numbers = torch.zeros(1 << 17).add_(1)
team = {task.name for task in Path("/proc/self/task").iterdir()} - before
idle = IdleTeams()
told = [rate()]
for wanted in (True, False):
    idle(wanted)
    told.append(rate())
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.alone
@linux
def test_idle_teams_have_the_runtime_stop_spinning_and_their_end_lets_it_spin_again():
    spinning, sleeping, again = json.loads(child(_SPUN))
    assert spinning > 3 * sleeping
    assert again > 3 * sleeping


_BUSY = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])   # before OpenMP counts them
import subprocess, sys, time, torch
from locara_sidecar.engine.torch_engine.waiting import waiting_of
torch.set_num_threads(2)
waiting = waiting_of("cpu")
torch.manual_seed(0)
numbers = torch.randn(256, 256)

def work(seconds):
    waiting.begin()
    end, seen = time.monotonic() + seconds, set()
    while time.monotonic() < end and not waiting.sleeping:
        result = numbers
        for _ in range(20):
            result = (result @ numbers).softmax(1) + numbers
        seen.add(float(result.double().sum()))
        waiting.tick()
    return seen

seen = work(0.05)
loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(4)]
try:
    seen |= work(30)
finally:
    for loop in loops:
        loop.kill()
assert waiting.sleeping
waiting.sleeping = False   # go on, with threads that sleep
seen |= work(0.05)
assert len(seen) == 1, seen
"""


@pytest.mark.slow
@pytest.mark.alone
@linux
def test_beside_busy_programs_threads_come_to_sleep_and_the_numbers_stay():
    child(_BUSY)


@linux
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_a_user_who_says_how_to_wait_is_obeyed(monkeypatch, name):
    for other in _CLEAR:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(waiting.torch, "get_num_threads", lambda: 2)
    assert waiting.waiting_of("cpu") is not None
    monkeypatch.setenv(name, "ACTIVE" if name == "OMP_WAIT_POLICY" else "5000")
    assert waiting.waiting_of("cpu") is None


@linux
def test_there_is_nothing_to_choose_on_an_accelerator_or_where_nobody_knows(monkeypatch, tmp_path):
    for other in _CLEAR:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(waiting.torch, "get_num_threads", lambda: 2)
    assert waiting.waiting_of("cuda") is None
    monkeypatch.setattr(waiting.torch, "get_num_threads", lambda: 1)
    assert waiting.waiting_of("cpu") is None
    monkeypatch.setattr(waiting.torch, "get_num_threads", lambda: 2)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "schedstat").write_text("")
    for folder in (tmp_path, Path("/nowhere")):
        monkeypatch.setattr(waiting, "_TASKS", folder)
        assert waiting.waiting_of("cpu") is None


def test_the_threads_of_other_runtimes_sleep_unless_the_user_says_otherwise():
    script = (
        "import os; from locara_sidecar.engine import worker; worker._prepare(0); print(os.environ['KMP_BLOCKTIME'])"
    )
    assert child(script) == "0\n"
    assert child(script, KMP_BLOCKTIME="200") == "200\n"
