"""What a job emits: its images and its steps, in order."""

import numpy as np
import pytest

from locara_sidecar.engine.drawing import strips
from locara_sidecar.engine.drawing.strips import Strips
from support.runtimes import staged


def test_events_come_in_order_and_count_the_steps_that_run(runtime, run, spec):
    run(runtime, spec(prompt="a large white dog"))  # has everything loaded, the text encoders included
    result = run(runtime, spec(prompt="a small black dog", count=2, steps=4))
    assert result.phases == [("encoding", 1), ("denoising", 1), ("decoding", 1), ("denoising", 2), ("decoding", 2)]
    assert [(s.image, s.step, s.steps) for s in result.steps] == [(i, k, 4) for i in (1, 2) for k in (1, 2, 3, 4)]
    assert (result.summary.settled.quantization, result.summary.settled.precision) == ("none", "float32")


@pytest.fixture
def narrow(monkeypatch):
    """Make a strip a few rows high; return a list that gets an entry for each residual block done in strips."""
    done, residual = [], Strips.residual

    def watched(self, block, x):
        done.append(type(self).__name__)
        return residual(self, block, x)

    monkeypatch.setattr(strips, "NUMBERS", 1)
    monkeypatch.setattr(Strips, "residual", watched)
    return done


def test_decoding_in_strips_is_for_plans_that_need_it_and_changes_nothing(cold, runtime, run, spec, narrow):
    wide = {"width": 272, "height": 64, "steps": 1}
    whole = run(runtime, spec(tiling="auto", **wide))
    assert not narrow
    wanted = run(runtime, spec(tiling="on", **wide))
    assert narrow
    assert [result.summary.settled.tiling for result in (whole, wanted)] == ["off", "on"]
    assert differs(whole.images[0], wanted.images[0]) <= 1
    narrow.clear()
    tight = run(staged(cold, tiled=True), spec(tiling="auto", **wide))
    assert narrow
    assert tight.summary.settled.tiling == "on"
    assert tight.images[0].tobytes() == wanted.images[0].tobytes()


@pytest.mark.slow
def test_strips_do_not_leak_into_the_next_job(runtime, run, spec, narrow):
    plain = run(runtime, spec(width=256, height=256, steps=1, tiling="off"))
    run(runtime, spec(width=256, height=256, steps=1, tiling="on"))
    narrow.clear()
    again = run(runtime, spec(width=256, height=256, steps=1, tiling="auto"))
    assert not narrow
    assert plain.images[0].tobytes() == again.images[0].tobytes()


def test_a_full_preview_is_decoded_in_strips_where_its_job_is_and_changes_nothing(runtime, run, spec, narrow):
    size = {"width": 64, "height": 64, "steps": 2}
    pictures = [run(runtime, spec(tiling="on", mode=mode, **size)).images[0] for mode in ("off", "full")]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    x0 = run(runtime, spec(tiling="on", mode="full", **size)).steps[-1].x0
    narrow.clear()
    preview, decoder = runtime.preview(x0, "full", 64)
    assert (decoder, bool(narrow)) == ("full", True)
    run(runtime, spec(tiling="off", mode="full", **size))
    narrow.clear()
    other, _ = runtime.preview(x0, "full", 64)
    assert not narrow
    assert differs(preview, other) <= 1


def differs(one, other):
    """Return the largest difference of two pictures, in 8-bit levels."""
    return int(np.abs(np.array(one).astype(int) - np.array(other)).max())


@pytest.mark.parametrize(("steps", "at"), [(3, "exact"), (12, "fast")])
def test_a_speed_that_cannot_be_had_is_told_and_changes_nothing(runtime, run, spec, steps, at):
    exact, fast = (run(runtime, spec(steps=steps, width=32, height=32, speed=speed)) for speed in ("exact", "fast"))
    assert fast.summary.settled.speed == at
    assert [kind for kind, _ in fast.summary.warnings] == ["SpeedUnavailable"] * (at != "fast")
    assert (fast.images[0].tobytes() == exact.images[0].tobytes()) == (at == "exact")
