"""Loading before the first job is the same as loading for it."""

import pytest

from locara_sidecar.engine.runtime import JobCancelled, PhaseEvent
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.ipc.frames import LoadSpec


def load_spec(job):
    return LoadSpec(job="load-1", model=job.model, width=job.width, height=job.height)


def test_a_model_loaded_ahead_is_found_by_the_job_and_makes_the_same_pixels(cold, run, spec, control, runtime):
    expected = run(runtime, spec()).images[0].tobytes()
    events = []
    loaded = cold.load(load_spec(spec()), events.append, control())
    assert (loaded.quantization, loaded.precision) == ("none", "float32")
    assert loaded.memory > 10_000_000
    assert {(type(event), event.phase) for event in events} == {(PhaseEvent, "loading")}
    assert events[-1].fraction > 0.9
    result = run(cold, spec())
    assert ("loading", 1) not in result.phases
    assert result.images[0].tobytes() == expected


def test_loading_ahead_stops_and_fails_as_a_job_does(cold, run, spec, control):
    stop = control("loading", 60)
    with pytest.raises(JobCancelled):
        cold.load(load_spec(spec()), lambda event: setattr(stop, "phase", event.phase), stop)
    assert ("loading", 1) in run(cold, spec()).phases
    with pytest.raises(EngineError) as caught:
        cold.load(load_spec(spec(reserved=1 << 50)), lambda event: None, control())
    assert caught.value.kind == "InsufficientMemory"
