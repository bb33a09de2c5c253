"""Step caching computes fewer steps, samples all of them, and leaves nothing behind."""

import contextlib
import io

import pytest
import torch
from PIL import Image

from locara_sidecar.engine.drawing.speeds import SPEEDS
from locara_sidecar.engine.torch_engine.denoising.step_cache import caching
from locara_sidecar.ipc.frames import EditSpec
from locara_sidecar.machine.supported import LEAST_STEPS
from support.runtimes import make_runtime

pytestmark = [pytest.mark.slow, pytest.mark.torch]

CACHING = ["tiny-sd3", "tiny-flux-dev", "tiny-flux-kontext"]
STEPS = 15
COMPUTED = {"exact": list(range(15)), "balanced": [0, 1, 2, 3, 4, 5, 7, 10, 13], "fast": [0, 1, 2, 3, 5, 9, 13]}


@pytest.fixture(autouse=True)
def _quiet(runtimes, run, job_for):
    """Request the runtime first: its settings keep the libraries quiet."""
    run(runtimes("tiny-sd3"), job_for("tiny-sd3", steps=1))


def denoiser_of(runtime):
    return runtime.opened.family.module("transformer")


@contextlib.contextmanager
def counting(runtime):
    """Record which steps of the next image compute attention and feed-forward in every block, the others in none."""
    seen, calls = [], [-1]
    ends = (".to_q", ".net.2", ".proj_mlp")
    costly = [module for name, module in denoiser_of(runtime).named_modules() if name.endswith(ends)]
    hooks = [part.register_forward_pre_hook(lambda *_: seen.append(calls[0])) for part in costly]
    before = denoiser_of(runtime).register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    try:
        yield lambda: sorted(set(seen)) if {seen.count(step) for step in seen} == {len(costly)} else seen
    finally:
        for hook in (*hooks, before):
            hook.remove()


@pytest.mark.parametrize("speed", ["exact", "balanced", "fast"])
@pytest.mark.parametrize("model", CACHING)
def test_a_speed_computes_its_own_steps_and_samples_all(runtimes, run, job_for, model, speed):
    runtime, job = runtimes(model), job_for(model, steps=STEPS, speed=speed)
    run(runtime, job_for(model, steps=1))
    with counting(runtime) as computed:
        result = run(runtime, job)
        assert computed() == COMPUTED[speed]
    assert [(step.step, step.steps) for step in result.steps] == [(k, STEPS) for k in range(1, STEPS + 1)]
    assert (result.summary.settled.speed, result.summary.warnings) == (speed, [])
    assert run(runtime, job).images[0].tobytes() == result.images[0].tobytes()


@pytest.mark.parametrize("model", CACHING)
def test_the_last_steps_prediction_is_the_picture_at_any_speed(runtimes, run, job_for, model):
    result = run(runtimes(model), job_for(model, steps=STEPS, speed="fast"))
    last, _ = runtimes(model).preview(result.steps[-1].x0, "full", 256)
    assert last.tobytes() == result.images[0].tobytes()


@pytest.mark.parametrize("model", CACHING)
def test_an_exact_job_after_a_fast_one_is_the_same_to_the_bit(runtimes, run, job_for, model):
    runtime, exact = runtimes(model), job_for(model, steps=STEPS)
    expected = run(runtime, exact)
    fast = run(runtime, job_for(model, steps=STEPS, speed="fast"))
    again = run(runtime, exact)
    assert fast.images[0].tobytes() != expected.images[0].tobytes()
    assert [step.x0.cpu().numpy().tobytes() for step in again.steps] == [
        step.x0.cpu().numpy().tobytes() for step in expected.steps
    ]
    assert again.images[0].tobytes() == expected.images[0].tobytes()


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("model", CACHING)
def test_an_image_knows_nothing_of_the_one_before_it(runtimes, run, job_for, model, speed):
    runtime = runtimes(model)
    together = run(runtime, job_for(model, steps=STEPS, speed=speed, seed=40, count=2)).images
    other = run(runtime, job_for(model, steps=STEPS, speed=speed, seed=41)).images[0]
    assert together[1].tobytes() == other.tobytes() != together[0].tobytes()


@pytest.mark.parametrize("share", [0.2, 0.55, 0.9])
@pytest.mark.parametrize("model", CACHING)
def test_a_cancel_inside_a_step_leaves_nothing_in_the_denoiser(runtimes, run, job_for, control, model, share):
    runtime, job = runtimes(model), job_for(model, steps=STEPS, speed="fast")
    run(runtime, job)
    expected = run(runtime, job)
    stopped = run(runtime, job, control("denoising", int(expected.control.counts["denoising"] * share)))
    assert stopped.cancelled
    assert 0 < len(stopped.steps) < STEPS
    left = [
        name for name, part in denoiser_of(runtime).named_modules() if {"_diffusers_hook", "forward"} & set(vars(part))
    ]
    assert left == []
    assert run(runtime, job).images[0].tobytes() == expected.images[0].tobytes()


def test_a_job_can_stop_inside_a_predicted_step(runtimes, run, job_for, control):
    """The last of these steps is predicted, and the last place to stop is after it."""
    runtime, job = runtimes("tiny-sd3"), job_for("tiny-sd3", steps=STEPS, speed="fast")
    run(runtime, job)
    places = run(runtime, job).control.counts["denoising"]
    stopped = run(runtime, job, control("denoising", places - 1))
    assert stopped.cancelled
    assert len(stopped.steps) == STEPS - 1


def test_the_two_guidance_passes_are_predicted_each_from_its_own_past(runtimes, run, job_for):
    """Guidance sends both through the denoiser as one batch: each row must give the same as alone."""
    run(runtimes("tiny-sd3"), job_for("tiny-sd3", steps=1))
    denoiser = denoiser_of(runtimes("tiny-sd3"))
    draw, device = torch.Generator().manual_seed(3), denoiser.device
    latents = torch.randn(STEPS, 2, 16, 8, 8, generator=draw).to(device)
    words, pooled = torch.randn(2, 20, 64, generator=draw).to(device), torch.randn(2, 64, generator=draw).to(device)

    def answers(rows):
        with torch.no_grad(), caching(denoiser, "fast"):
            return torch.stack(
                [
                    denoiser(
                        hidden_states=latents[step, rows],
                        timestep=torch.full((len(latents[step, rows]),), 900.0 - 50 * step, device=device),
                        encoder_hidden_states=words[rows],
                        pooled_projections=pooled[rows],
                        return_dict=False,
                    )[0]
                    for step in range(STEPS)
                ]
            )

    both, first, second = answers(slice(0, 2)), answers(slice(0, 1)), answers(slice(1, 2))
    torch.testing.assert_close(both, torch.cat((first, second), dim=1), rtol=1e-4, atol=1e-5)
    assert (first - second).abs().mean() > 0.1


@pytest.mark.parametrize(("model", "steps"), [("tiny-sdxl", STEPS), ("tiny-flux-dev", LEAST_STEPS - 1)])
def test_what_has_no_use_for_caching_says_so_and_runs_exactly(runtimes, run, job_for, model, steps):
    runtime = runtimes(model)
    exact, fast = (run(runtime, job_for(model, steps=steps, speed=speed)) for speed in ("exact", "fast"))
    assert [kind for kind, _ in fast.summary.warnings] == ["SpeedUnavailable"]
    assert fast.summary.settled.speed == "exact"
    assert fast.images[0].tobytes() == exact.images[0].tobytes()


def test_an_edit_counts_the_steps_that_it_really_runs(runtimes, run, job_for):
    photo = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(photo, "PNG")
    ran = []
    for strength in (0.9, 0.5):
        job = job_for(
            "tiny-sd3", steps=STEPS, speed="balanced", edit=EditSpec(images=[photo.getvalue()], strength=strength)
        )
        result = run(runtimes("tiny-sd3"), job)
        ran.append((len(result.steps), result.summary.settled.speed))
        assert run(runtimes("tiny-sd3"), job).images[0].tobytes() == result.images[0].tobytes()
    assert ran == [(14, "balanced"), (8, "exact")]


def test_a_quantized_model_runs_fast_too(tmp_path, run, job_for):
    runtime = make_runtime("torch", tmp_path)
    result = run(runtime, job_for("tiny-sd3", steps=STEPS, speed="fast", quantization="8bit"))
    assert result.summary.settled.speed == "fast"
    assert len(result.steps) == STEPS
