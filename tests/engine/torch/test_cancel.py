"""A cancelled job stops inside whatever it is doing, and leaves no trace."""

import pytest
import torch
from torch import nn

from locara_sidecar.engine.runtime import JobCancelled, PhaseEvent
from locara_sidecar.engine.torch_engine.hooks import Checkpoints
from locara_sidecar.engine.torch_engine.runtime import TorchRuntime

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("at", [1, 60, 200])
def test_a_cancel_while_loading_leaves_a_runtime_that_loads_again(tmp_path, run, spec, control, runtime, at):
    expected = run(runtime, spec()).images[0].tobytes()
    cold = TorchRuntime(str(tmp_path))
    stopped = run(cold, spec(), control("loading", at))
    assert stopped.cancelled
    assert stopped.phases == [("loading", 1)]
    assert run(cold, spec()).images[0].tobytes() == expected


@pytest.mark.parametrize(
    ("phase", "at", "steps_done"),
    [("denoising", 1, 0), ("denoising", 20, 0), ("denoising", 40, 1), ("decoding", 30, 3)],
)
def test_a_cancel_inside_a_step_or_the_decoder_changes_nothing_after_it(
    runtime, run, spec, control, phase, at, steps_done
):
    expected = run(runtime, spec()).images[0].tobytes()
    stopped = run(runtime, spec(), control(phase, at))
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


def test_every_part_of_a_job_has_many_places_to_stop(runtime, run, spec):
    run(runtime, spec())
    result = run(runtime, spec(prompt="the large green square", steps=2))
    counts = result.control.counts
    assert counts["encoding"] > 10
    assert counts["denoising"] > 2 * 20
    assert counts["decoding"] > 20


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


def test_hooks_do_nothing_between_jobs(runtime, run, spec, control):
    counted = run(runtime, spec(), control())
    before = dict(counted.control.counts)
    assert runtime.preview(counted.steps[-1].x0, "full", 64) is not None
    assert counted.control.counts == before


def test_loading_reports_how_far_it_is(tmp_path, run, spec):
    result = run(TorchRuntime(str(tmp_path)), spec())
    fractions = [
        event.fraction for event in result.events if isinstance(event, PhaseEvent) and event.phase == "loading"
    ]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] > 0.9
    assert len(fractions) > 5


def test_hooks_sit_on_list_members_and_convolutions_once_each(control):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Identity(), nn.Dropout()])
            self.blocks.append(None)  # as diffusers does for an attention that is left out
            self.last = nn.Linear(4, 4)

        def forward(self, x):
            for block in self.blocks:
                x = x if block is None else block(x)
            return self.last(x)

    checkpoints, counter, net = Checkpoints("cpu"), control(), Net()
    checkpoints.install(net)
    with checkpoints.armed(counter):
        net(torch.zeros(1, 3, 4, 4))
    assert counter.counts == {None: 2}
    with pytest.raises(JobCancelled), checkpoints.armed(control(None, 2)):
        net(torch.zeros(1, 3, 4, 4))
    net(torch.zeros(1, 3, 4, 4))
    assert counter.counts == {None: 2}
