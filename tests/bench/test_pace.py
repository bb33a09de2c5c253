"""The benchmark of the MLX engine's pace sees what a place to stop at costs."""

import time

import pytest

from bench import pace

MAKERS = {
    "MMDiT": (lambda: pace.mmdit(layers=3, empty=True), 3),
    "FLUX": (lambda: pace.flux(doubles=1, singles=2, empty=True), 3),
    "UNet": (lambda: pace.unet(depths=(1, 1, 1), empty=True), 27),
}


@pytest.mark.alone
@pytest.mark.parametrize(("make", "groups"), MAKERS.values(), ids=MAKERS)
def test_every_block_is_a_group_and_a_cost_that_is_planted_in_them_is_seen(make, groups):
    burned = 0.004

    def burn():
        end = time.perf_counter() + burned
        while time.perf_counter() < end:
            pass

    for _ in range(5):  # a busy machine may hide it once
        plain, planted = (pace.compare(make(), 0.5, checkpoint) for checkpoint in (None, burn))
        assert plain.groups == planted.groups == groups
        # some of it hides behind the device's own work
        if planted.adds > max(0.6 * groups * burned, plain.adds) and planted.processor > plain.processor:
            return
    pytest.fail(f"{planted} is no dearer than {plain}")
