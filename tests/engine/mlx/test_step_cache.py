"""Step caching computes the same steps as the torch engine, predicts the same, and leaves nothing behind."""

import mlx.core as mx
import numpy as np
import pytest

from locara_sidecar.engine.mlx_engine.denoisers import flux, mmdit
from locara_sidecar.engine.mlx_engine.step_cache import Answers
from support.parity import TOLERANCES, error
from support.runtimes import make_runtime

pytestmark = [pytest.mark.mlx, pytest.mark.torch]

CACHING = ["tiny-sd3", "tiny-flux-dev", "tiny-flux-kontext"]
STEPS = 15
COMPUTED = {"exact": list(range(15)), "balanced": [0, 1, 2, 3, 4, 5, 7, 10, 13], "fast": [0, 1, 2, 3, 5, 9, 13]}


@pytest.mark.parametrize("speed", COMPUTED)
def test_a_line_is_predicted_exactly_and_only_the_patterns_steps_are_computed(speed):
    answers, asked = Answers(speed), []

    def at(step):
        asked.append(step)
        return mx.array([3.0 - 2 * step, step])

    told = [answers(step, lambda step=step: at(step)) for step in range(STEPS)]
    assert asked == COMPUTED[speed]
    assert np.array(mx.stack(told)).tolist() == [[3.0 - 2 * step, step] for step in range(STEPS)]


def test_a_bend_is_predicted_along_the_last_two_computed_steps():
    answers = Answers("fast")
    told = [answers(step, lambda step=step: mx.array(float(step**2))).item() for step in range(11)]
    assert told[:4] == [0, 1, 4, 9]
    assert told[4] == 9 + 5
    assert told[6:9] == [25 + far * (25 - 9) / 2 for far in (1, 2, 3)]
    assert told[10] == 81 + (81 - 25) / 4


@pytest.fixture
def computed(monkeypatch):
    """A list that gets an entry for each call of a denoiser."""
    calls = []
    for network in (flux.Flux, mmdit.Mmdit):
        call = network.__call__

        def watched(self, *args, call=call, **kwargs):
            calls.append(type(self).__name__)
            return call(self, *args, **kwargs)

        monkeypatch.setattr(network, "__call__", watched)
    return calls


@pytest.mark.quick_cases("tiny-sd3-fast", "tiny-flux-kontext-balanced")
@pytest.mark.parametrize("speed", ["balanced", "fast"])
@pytest.mark.parametrize("model", CACHING)
def test_a_speed_makes_the_torch_engines_latents(run, job_for, tmp_path, computed, model, speed):
    job = job_for(model, steps=STEPS, speed=speed)
    mine = run(make_runtime("mlx", tmp_path), job)
    assert len(computed) == len(COMPUTED[speed])
    assert [(step.step, step.steps) for step in mine.steps] == [(k, STEPS) for k in range(1, STEPS + 1)]
    assert (mine.summary.settled.speed, mine.summary.warnings) == (speed, [])
    theirs = run(make_runtime("torch", tmp_path / "torch"), job)
    ours, reference = (np.array(result.steps[-1].x0.tolist()) for result in (mine, theirs))
    assert error(ours, reference.transpose(0, 2, 3, 1)) < TOLERANCES["final latent"]


@pytest.mark.slow
def test_an_image_knows_nothing_of_the_one_before_it_and_an_exact_job_nothing_of_a_fast_one(run, job_for, tmp_path):
    runtime = make_runtime("mlx", tmp_path)
    exact = run(runtime, job_for("tiny-sd3", steps=STEPS)).images[0].tobytes()
    both = run(runtime, job_for("tiny-sd3", steps=STEPS, speed="fast", seed=40, count=2)).images
    other = run(runtime, job_for("tiny-sd3", steps=STEPS, speed="fast", seed=41)).images[0]
    assert both[1].tobytes() == other.tobytes() != both[0].tobytes()
    assert run(runtime, job_for("tiny-sd3", steps=STEPS)).images[0].tobytes() == exact


def test_a_job_can_stop_in_a_predicted_step(run, job_for, control, tmp_path):
    runtime, job = make_runtime("mlx", tmp_path), job_for("tiny-sd3", steps=STEPS, speed="fast")
    places = run(runtime, job).control.counts["denoising"]
    stopped = run(runtime, job, control("denoising", places))
    assert stopped.cancelled
    assert len(stopped.steps) == STEPS


@pytest.mark.parametrize(("model", "steps"), [("tiny-sdxl", STEPS), ("tiny-flux-dev", 11)])
def test_what_has_no_use_for_caching_says_so_and_runs_exactly(run, job_for, tmp_path, model, steps):
    runtime = make_runtime("mlx", tmp_path)
    exact, fast = (run(runtime, job_for(model, steps=steps, speed=speed)) for speed in ("exact", "fast"))
    assert [kind for kind, _ in fast.summary.warnings] == ["SpeedUnavailable"]
    assert fast.images[0].tobytes() == exact.images[0].tobytes()
