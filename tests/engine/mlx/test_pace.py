"""Groups of blocks inside a step: where a job may stop, and that the benchmark sees what they cost."""

import time

import mlx.core as mx
import pytest

from bench import pace as bench
from locara_sidecar.engine.mlx_engine.pace import Checkpoints, Pace
from locara_sidecar.engine.runtime import JobCancelled
from support.runtimes import Control

MAKERS = {
    "MMDiT": (lambda: bench.mmdit(layers=3, empty=True), 3),
    "FLUX": (lambda: bench.flux(doubles=1, singles=2, empty=True), 3),
    "UNet": (lambda: bench.unet(depths=(1, 1, 1), empty=True), 27),
}


@pytest.mark.parametrize(("make", "groups"), MAKERS.values(), ids=MAKERS)
def test_every_block_is_a_group_and_a_cost_that_is_planted_in_them_is_seen(make, groups):
    burned = 0.004

    def burn():
        end = time.perf_counter() + burned
        while time.perf_counter() < end:
            pass

    plain, planted = (bench.compare(make(), 0.5, checkpoint) for checkpoint in (None, burn))
    assert plain.groups == planted.groups == groups
    assert planted.adds > 0.6 * groups * burned  # some of it hides behind the device's own work
    assert planted.adds > plain.adds
    assert planted.processor > plain.processor


def test_two_groups_at_most_are_on_their_way(monkeypatch):
    waited, handed = [], []
    monkeypatch.setattr(mx, "async_eval", lambda *state: handed.append(state))
    monkeypatch.setattr(mx, "eval", lambda *state: waited.append(state))
    pace = Pace(lambda: None)
    blocks = [mx.array([float(number)]) for number in range(4)]
    for block in blocks:
        pace(block)
    assert [state[0] is block for (state, block) in zip(handed, blocks, strict=True)] == [True] * 4
    assert waited[0] == ()
    assert [state[0] is block for (state, block) in zip(waited[1:], blocks[:3], strict=True)] == [True] * 3


def test_a_larger_group_asks_less_often():
    asked = Control()
    checkpoints = Checkpoints(every=3)
    with checkpoints.armed(asked):
        pace = checkpoints.pace()
        for number in range(7):
            pace(mx.array([float(number)]))
    assert sum(asked.counts.values()) == 2


def test_a_cancelled_job_stops_at_its_next_group_and_no_other_job_does():
    checkpoints = Checkpoints()
    with checkpoints.armed(Control(None, 2)):
        pace = checkpoints.pace()
        pace(mx.array([1.0]))
        with pytest.raises(JobCancelled):
            pace(mx.array([2.0]))
    checkpoints.pace()(mx.array([3.0]))
