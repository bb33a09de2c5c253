"""Components are loaded when a phase needs them and released when it ends; the picture is the same."""

import pytest

from locara_sidecar.engine.drawing.warm import WarmKey
from support.runtimes import staged

pytestmark = pytest.mark.slow

ENCODERS = {"text_encoder", "text_encoder_2", "text_encoder_3"}
STAGES = {
    "encoders leave": {"encoders_leave": True},
    "encoders alone": {"encoders_leave": True, "alone": True},
    "all leave": {"encoders_leave": True, "alone": True, "denoiser_leaves": True},
}


def loaded(runtime):
    return set(runtime.opened.family._loaded)


@pytest.mark.quick_cases("all leave")
@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_the_picture_is_the_same_however_components_come_and_go(cold, run, spec, runtime, stages):
    staged(cold, **stages)
    for job in (spec(count=2), spec(count=2), spec(count=2, prompt="a blue cat")):
        expected = [image.tobytes() for image in run(runtime, job).images]
        assert [image.tobytes() for image in run(cold, job).images] == expected


@pytest.mark.quick_cases("mlx", "all leave")
@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_what_leaves_is_gone_when_the_next_phase_begins(cold, run, spec, stages):
    staged(cold, **stages)
    there = {}

    def look(event):
        if getattr(event, "phase", "loading") != "loading":
            there.setdefault(event.phase, set()).update(loaded(cold))

    run(cold, spec(), on_event=look)
    run(cold, spec(prompt="a blue cat"), on_event=look)
    assert there["encoding"] == ENCODERS | {"vae"} | (set() if stages.get("alone") else {"transformer"})  # warm
    assert there["denoising"] == {"transformer", "vae"}
    assert there["decoding"] == {"vae"} | (set() if stages.get("denoiser_leaves") else {"transformer"})


def test_a_repeated_prompt_loads_no_encoder(cold, run, spec, copy):
    staged(cold, encoders_leave=True)
    first = run(cold, spec())
    run(cold, spec(path=str(copy), digest="sha256:1", prompt="a blue cat"))  # another model has been loaded in between
    second = run(cold, spec())
    assert second.phases == [("loading", 1), ("denoising", 1), ("decoding", 1)]
    assert loaded(cold) == {"transformer", "vae"}
    assert first.images[0].tobytes() == second.images[0].tobytes()


def test_loading_in_stages_is_one_rising_fraction(cold, run, spec):
    result = run(staged(cold, encoders_leave=True, alone=True), spec())
    fractions = [event.fraction for event in result.events if getattr(event, "phase", None) == "loading"]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.9
    phases = [event.phase for event in result.events if hasattr(event, "phase")]
    assert list(dict.fromkeys(phases)) == ["loading", "encoding", "denoising", "decoding"]
    assert "loading" in phases[phases.index("encoding") :]


@pytest.mark.parametrize("at", [60, 120, 200])
def test_a_cancel_in_a_later_stage_leaves_a_runtime_that_loads_the_rest(cold, run, spec, control, runtime, at):
    staged(cold, encoders_leave=True)
    assert run(cold, spec(), control("loading", at)).cancelled
    assert run(cold, spec()).images[0].tobytes() == run(runtime, spec()).images[0].tobytes()


def test_opening_loads_no_component(cold, spec, control):
    job = spec()
    cold.warm._open(job.model, WarmKey.of(job.model, "float32", "none"), lambda event: None, control())
    assert loaded(cold) == set()
