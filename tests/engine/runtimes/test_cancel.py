"""A cancelled job stops inside whatever it is doing, and leaves no trace."""

import pytest

from locara_sidecar.engine.runtime import PhaseEvent

PLACES = {"torch": (10, 20, 20), "mlx": (8, 4, 10)}
"""At least so many places to stop: in encoding a prompt, in one step, in decoding."""


@pytest.fixture
def counts(runtime, run, spec):
    """How many places to stop each phase of the usual job has."""
    run(runtime, spec())
    return run(runtime, spec()).control.counts


@pytest.mark.parametrize("at", [1, 60, 200])
def test_a_cancel_while_loading_leaves_a_runtime_that_loads_again(cold, run, spec, control, runtime, at):
    expected = run(runtime, spec()).images[0].tobytes()
    stopped = run(cold, spec(), control("loading", at))
    assert stopped.cancelled
    assert stopped.phases == [("loading", 1)]
    assert run(cold, spec()).images[0].tobytes() == expected


@pytest.mark.parametrize(
    ("phase", "share", "steps_done"),
    [("denoising", 0, 0), ("denoising", 0.2, 0), ("denoising", 0.5, 1), ("denoising", 0.8, 2), ("decoding", 0.5, 3)],
)
def test_a_cancel_inside_a_step_or_the_decoder_changes_nothing_after_it(
    runtime, run, spec, control, counts, phase, share, steps_done
):
    expected = run(runtime, spec()).images[0].tobytes()
    stopped = run(runtime, spec(), control(phase, 1 + int(counts[phase] * share)))
    assert stopped.cancelled
    assert len(stopped.steps) == steps_done
    assert not stopped.images
    assert run(runtime, spec()).images[0].tobytes() == expected


def test_a_cancel_inside_a_text_encoder_keeps_no_half_embedding(runtime, run, spec, control):
    words = "a yellow tree at the white dog"
    stopped = run(runtime, spec(prompt=words), control("encoding", 4))
    assert stopped.cancelled
    result = run(runtime, spec(prompt=words))
    assert ("encoding", 1) in result.phases
    assert result.images[0].tobytes() == run(runtime, spec(prompt=words)).images[0].tobytes()


def test_every_part_of_a_job_has_many_places_to_stop(engine, runtime, run, spec):
    run(runtime, spec())
    result = run(runtime, spec(prompt="the large green square", steps=2))
    encoding, step, decoding = PLACES[engine]
    assert result.control.counts["encoding"] > encoding
    assert result.control.counts["denoising"] > 2 * step
    assert result.control.counts["decoding"] > decoding


def test_a_cancel_during_a_full_preview_stops_the_job(runtime, run, spec, control):
    class Late(control):
        armed = False

        def checkpoint(self):
            if self.armed:
                self.phase, self._cancel = "preview", ("preview", 5)
            super().checkpoint()

    late = Late()

    def look(event):
        if hasattr(event, "x0"):
            late.armed = True
            runtime.preview(event.x0, "full", 64)

    assert run(runtime, spec(), late, look).cancelled
    assert not run(runtime, spec()).cancelled


def test_a_job_that_is_over_is_not_asked_any_more(runtime, run, spec, control):
    counted = run(runtime, spec(), control())
    before = dict(counted.control.counts)
    assert runtime.preview(counted.steps[-1].x0, "full", 64) is not None
    assert counted.control.counts == before


def test_loading_reports_how_far_it_is(cold, run, spec):
    result = run(cold, spec())
    fractions = [
        event.fraction for event in result.events if isinstance(event, PhaseEvent) and event.phase == "loading"
    ]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] > 0.9
    assert len(fractions) > 5
