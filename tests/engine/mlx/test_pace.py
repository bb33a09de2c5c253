"""Groups of blocks inside a step, between which a job may stop."""

import mlx.core as mx
import pytest

from locara_sidecar.engine.mlx_engine.pace import Checkpoints, Pace
from locara_sidecar.engine.runtime import JobCancelled
from support.runtimes import Control


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
