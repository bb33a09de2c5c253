"""What a job emits: its images, its steps, in order."""

import pytest

from support.runtimes import staged


def test_events_come_in_order_and_count_the_steps_that_run(runtime, run, spec):
    run(runtime, spec(prompt="a large white dog"))  # has everything loaded, the text encoders included
    result = run(runtime, spec(prompt="a small black dog", count=2, steps=4))
    assert result.phases == [("encoding", 1), ("denoising", 1), ("decoding", 1), ("denoising", 2), ("decoding", 2)]
    assert [(s.image, s.step, s.steps) for s in result.steps] == [(i, k, 4) for i in (1, 2) for k in (1, 2, 3, 4)]
    assert (result.summary.settled.quantization, result.summary.settled.precision) == ("none", "float32")


def test_decoding_in_tiles_is_for_plans_that_need_it_and_for_nobody_else(cold, runtime, run, spec):
    wide = {"width": 272, "height": 64, "steps": 1}
    whole, tiled = (run(runtime, spec(tiling=tiling, **wide)) for tiling in ("auto", "on"))
    assert [result.summary.settled.tiling for result in (whole, tiled)] == ["off", "on"]
    tight = run(staged(cold, tiled=True), spec(tiling="auto", **wide))
    assert tight.summary.settled.tiling == "on"
    assert tight.images[0].tobytes() == tiled.images[0].tobytes() != whole.images[0].tobytes()


def test_a_tiled_decode_does_not_leak_into_the_next_job(runtime, run, spec):
    plain = run(runtime, spec(width=256, height=256, steps=1, tiling="off"))
    run(runtime, spec(width=256, height=256, steps=1, tiling="on"))
    again = run(runtime, spec(width=256, height=256, steps=1, tiling="auto"))
    assert plain.images[0].tobytes() == again.images[0].tobytes()


@pytest.mark.parametrize(("steps", "at"), [(3, "exact"), (12, "fast")])
def test_a_speed_that_cannot_be_had_is_told_and_changes_nothing(runtime, engine, run, spec, steps, at):
    exact, fast = (run(runtime, spec(steps=steps, width=32, height=32, speed=speed)) for speed in ("exact", "fast"))
    ran = at if engine == "torch" else "exact"
    assert fast.summary.settled.speed == ran
    assert [kind for kind, _ in fast.summary.warnings] == ["SpeedUnavailable"] * (ran != "fast")
    assert (fast.images[0].tobytes() == exact.images[0].tobytes()) == (ran == "exact")
