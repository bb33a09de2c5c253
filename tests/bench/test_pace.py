"""The benchmark of the MLX engine's pace counts the groups of a step and notices what a stopping place costs.

With a simulated clock: on a real one the cost hides behind the device's work, or other work disturbs it.
"""

import pytest

from bench import pace

MAKERS = {
    "MMDiT": (lambda: pace.mmdit(layers=3, empty=True), 3),
    "FLUX": (lambda: pace.flux(doubles=1, singles=2, empty=True), 3),
    "UNet": (lambda: pace.unet(depths=(1, 1, 1), empty=True), 27),
}
STEP, COST = 0.5, 0.004


class PlayedClock:
    """A clock that stands still, except for the time that a test lets pass."""

    def __init__(self):
        self.wall = self.processor = 0.0

    def __call__(self):
        return self.wall, self.processor


@pytest.mark.parametrize(("make", "groups"), MAKERS.values(), ids=MAKERS)
def test_every_block_is_a_group_and_a_cost_that_is_planted_in_them_is_seen(make, groups):
    clock, call = PlayedClock(), make()

    def step(paced):
        clock.wall += STEP
        clock.processor += STEP
        return call(paced)

    def burn():
        clock.wall += COST
        clock.processor += COST / 2

    plain, planted = (pace.compare(step, 10 * STEP, checkpoint, clock) for checkpoint in (lambda: None, burn))
    assert plain == pytest.approx((0, 1, 1, STEP, groups, 5))
    by = groups * COST
    assert planted[:5] == pytest.approx((by, 1 + by / STEP, 1 + by / 2 / STEP, STEP, groups))


def test_three_pairs_are_made_however_short_the_time_and_the_engines_own_checkpoint_is_timed():
    cost = pace.compare(pace.mmdit(layers=2, empty=True), 0)
    assert (cost.groups, cost.pairs) == (2, 3)
    assert cost.wall > 0
    assert cost.processor > 0
