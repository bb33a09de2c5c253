"""MLX's own limits follow each job's memory plan, and its count of the arrays is reported beside the system's."""

import mlx.core as mx
import pytest

from locara_sidecar.ipc.frames import LoadSpec, PrepareSpec
from locara_sidecar.machine import machine as machines
from locara_sidecar.machine import plan as plans
from support.runtimes import make_runtime

pytestmark = pytest.mark.mlx


def limits():
    """Return (memory, cache); the second can only be read by setting it."""
    cache = mx.set_cache_limit(0)
    mx.set_cache_limit(cache)
    return mx.get_memory_limit(), cache


@pytest.fixture(autouse=True)
def _as_before():
    memory, cache = limits()
    yield
    mx.set_memory_limit(memory)
    mx.set_cache_limit(cache)


def planned(runtime, job, **changes):
    """Return the plan's limits for a job, for the opened family and this machine."""
    family, machine = runtime.opened.family, runtime.backend.machine(0)
    wanted = plans.PlanRequest(
        width=job.width, height=job.height, precision="float32", quantization="none", guided=True,
        text_tokens=job.model.max_sequence_length + 77, **changes,
    )  # fmt: skip
    return plans.limits(plans.require(family.parts, wanted, machine), machine)


@pytest.mark.slow
def test_each_job_sets_the_limits_of_its_own_plan(runtime, run, spec):
    seen = {}
    for side in (64, 256, 64):
        job = spec(width=side, height=side, steps=1)
        run(runtime, job)
        memory, cache = limits()
        expected = planned(runtime, job)
        assert cache == expected.cache
        assert memory == pytest.approx(expected.memory, rel=0.01)  # free memory changes while a test runs
        assert seen.setdefault(side, (memory, cache)) == pytest.approx((memory, cache), rel=0.01)
    assert seen[256][1] > seen[64][1]


def test_the_limits_stand_before_the_first_weight_is_read(tmp_path, spec, control):
    mx.set_memory_limit(1 << 45)
    cold, at_first = make_runtime("mlx", tmp_path), []
    set_limits = cold.backend.limit

    def limit(wanted):
        set_limits(wanted)
        at_first.append((cold.opened.family.missing({"transformer"}), limits()))

    cold.backend.limit = limit
    job = spec()
    cold.load(LoadSpec(job="load-1", model=job.model, width=64, height=64), lambda _: None, control())
    ((missing, (now, cache)),) = at_first
    assert missing == ["transformer"]
    assert now == pytest.approx(planned(cold, job).memory, rel=0.01)
    assert cache == planned(cold, job).cache


def test_preparing_a_model_has_limits_of_its_own(tmp_path, job_for, control):
    mx.set_memory_limit(1 << 45)
    cold, model = make_runtime("mlx", tmp_path), job_for("tiny-flux", quantization="4bit").model
    (tmp_path / "into").mkdir()
    cold.prepare(PrepareSpec(job="p", model=model, into=str(tmp_path / "into")), lambda _: None, control())
    memory, cache = limits()
    assert memory < machines.of_engine(unified=False, reserved=0).total
    assert cache == plans._TENSORS


@pytest.mark.slow
def test_what_mlx_keeps_for_reuse_stays_under_its_limit(runtime, run, spec, monkeypatch):
    kept = []
    tight = plans.Limits(memory=1 << 40, cache=256 << 10)
    monkeypatch.setattr(plans, "limits", lambda plan, machine: tight)
    run(runtime, spec(width=256, height=256, steps=2), on_event=lambda _: kept.append(mx.get_cache_memory()))
    assert 0 < max(kept) <= tight.cache
    monkeypatch.setattr(plans, "limits", lambda plan, machine: plans.Limits(memory=1 << 40, cache=1 << 30))
    run(runtime, spec(width=256, height=256, steps=2), on_event=lambda _: kept.append(mx.get_cache_memory()))
    assert max(kept) > tight.cache  # so it was the limit that kept it small


def test_a_limit_that_is_too_low_stops_nothing(runtime, run, spec, monkeypatch):
    expected = run(runtime, spec()).images[0].tobytes()
    monkeypatch.setattr(plans, "limits", lambda plan, machine: plans.Limits(memory=1 << 20, cache=0))
    assert run(runtime, spec()).images[0].tobytes() == expected


def test_mlx_counts_its_arrays_and_the_system_the_whole_process(runtime, run, spec):
    mx.reset_peak_memory()
    run(runtime, spec())
    weights = runtime.opened.family.size({"transformer", "vae"})
    assert weights < runtime.peak_allocated() < runtime.peak_memory()
