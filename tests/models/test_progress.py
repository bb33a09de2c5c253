"""Progress of a download: often enough to be watched, never more often than the contract says."""

import itertools

import pytest
from msgspec import UNSET

from locara_sidecar.models import progress
from locara_sidecar.models.progress import Meter


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def phases(meter):
    meter.phase("resolving")
    meter.phase("downloading", 1000, 3)


@pytest.mark.parametrize("step", [0.001, 0.05, 0.099, 0.11, 0.3])
def test_at_most_ten_messages_in_any_second_however_often_bytes_come(clock, step):
    told = []
    meter = Meter("mine", lambda message: told.append((clock.now, message)))
    phases(meter)
    for _ in range(3000):
        clock.now += step
        meter.add(1)
    meter.finish()
    for phase in ("verifying", "publishing", "publishing"):
        meter.phase(phase)
    times = [when for when, _ in told]
    assert max(sum(start <= when < start + 1 for when in times) for start in times) <= 10
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) <= 0.2 + step + 0.001, "it is told often enough to be watched"


def test_each_phase_is_told_when_it_begins(clock):
    told = []
    meter = Meter("mine", told.append)
    phases(meter)
    meter.add(1)  # too soon
    meter.phase("verifying", 1000, 3)
    assert [message.phase for message in told] == ["resolving", "downloading", "verifying"]


def test_speed_and_time_left_come_from_the_last_seconds(clock):
    told = []
    meter = Meter("mine", told.append)
    meter.phase("downloading", 100_000, 1, 50_000)
    assert told[-1].eta_ms is UNSET
    for count in (10, 1000):
        for _ in range(20):
            clock.now += 0.5
            meter.add(count)
    assert told[-1].bytes == 70_200
    assert told[-1].bytes_per_second == pytest.approx(2000, rel=0.01)
    assert told[-1].eta_ms == pytest.approx(14_900, rel=0.01)


def test_bytes_that_were_thrown_away_are_taken_back(clock):
    told = []
    meter = Meter("mine", told.append)
    meter.phase("downloading", 1000, 1)
    meter.add(600)
    meter.add(-600)
    clock.now += 1
    meter.add(10, 1)
    assert (told[-1].bytes, told[-1].files) == (10, 1)
