"""The state table and the progress that a host sees."""

import itertools

import pytest
from msgspec import UNSET

from locara_sidecar.daemon.jobs import TRANSITIONS, Job
from locara_sidecar.daemon.progress import Progress


def test_a_job_moves_only_along_the_table():
    for start, goal in itertools.product(TRANSITIONS, TRANSITIONS):
        job = Job("job-1", 1, "image.generate", None)
        job.state = start
        if goal in TRANSITIONS[start]:
            job.move(goal)
            assert job.state == goal
        else:
            with pytest.raises(ValueError, match=f"from {start} to {goal}"):
                job.move(goal)


def test_progress_never_falls_and_the_eta_comes_from_the_time_of_a_step():
    now = 0.0
    progress = Progress("job-1", 2, 4, lambda: now)
    seen = [progress.phase("queued", 1), progress.phase("loading", 1, 0.5), progress.phase("encoding", 1)]
    assert all(message.eta_ms is UNSET for message in seen)
    for image in (1, 2):
        seen.append(progress.phase("denoising", image))
        for step in range(1, 5):
            now += 1.0
            seen.append(progress.step(image, step, 4, None))
        seen.append(progress.phase("decoding", image))
        now += 2.0
        seen.append(progress.phase("saving", image))
    values = [message.progress for message in seen]
    assert values == sorted(values)
    first_of_second = next(message for message in seen if message.image == 2 and message.step == 1)
    assert first_of_second.eta_ms == 3000 + 2000
    assert seen[-1].eta_ms == 0
