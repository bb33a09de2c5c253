"""A cancelled job stops in the middle of what it is doing, and leaves no trace."""

from locara_sidecar.engine.runtime import PhaseEvent

PLACES = {"torch": (10, 20, 20), "mlx": (8, 4, 10)}
"""The least number of places to stop: in encoding a prompt, in one step, in decoding."""


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
