"""The state table and the progress that a host sees."""

import itertools
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from locara_protocol import jsonrpc
from locara_protocol.errors import RpcError
from locara_protocol.image_messages import MAX_PROMPT_BYTES, PreviewImage
from locara_protocol.job_messages import JobsListResult
from locara_protocol.messages import JobCounts
from locara_sidecar.daemon.images.progress import Progress
from locara_sidecar.daemon.jobs.ended_jobs import MAX_BYTES, MAX_JOBS, MAX_SECONDS, EndedJobs
from locara_sidecar.daemon.jobs.job_calls import JobCalls
from locara_sidecar.daemon.jobs.jobs import TRANSITIONS, Job, JobQueue


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
    first_of_all = next(message for message in seen if message.step == 1)
    assert first_of_all.eta_ms == 3000 + 4000  # the time that decoding takes is not known yet


def test_loading_that_goes_on_after_encoding_is_seen_to_go_on():
    progress = Progress("job-1", 1, 4, lambda: 0.0)
    told = [progress.phase("loading", 1, fraction) for fraction in (0.0, 0.3)]
    told.append(progress.phase("encoding", 1))
    told += [progress.phase("loading", 1, fraction) for fraction in (0.3, 0.6, 1.0)]
    told.append(progress.phase("denoising", 1))
    values = [message.progress for message in told]
    assert values[1] == values[2] == values[3] < values[4] < values[5] < values[6]
    warm = Progress("job-2", 1, 4, lambda: 0.0)
    assert warm.phase("encoding", 1).progress == values[5]  # nothing to load, so that part is done


def test_the_time_left_follows_steps_that_become_slower_and_passes_over_a_slow_first_one():
    now = 0.0
    progress = Progress("job-1", 1, 10, lambda: now)
    progress.phase("denoising", 1)
    left = []
    for step, seconds in enumerate((9.0, 1.0, 1.0, 2.0), start=1):
        now += seconds
        left.append(progress.step(1, step, 10, None).eta_ms)
    assert left == [9 * 9000, 8 * 1000, 7 * 1000, 6 * 1300]


def test_saving_an_image_while_the_next_is_drawn_disturbs_neither_progress_nor_eta():
    now = 0.0
    progress = Progress("job-1", 2, 4, lambda: now)
    for image, steps in ((1, 4), (2, 2)):
        progress.phase("denoising", image)
        for step in range(1, steps + 1):
            now += 1.0
            before = progress.step(image, step, 4, None)
    saving = progress.phase("saving", 1)
    assert (saving.phase, saving.image, saving.step) == ("saving", 1, 4)
    assert (saving.progress, saving.eta_ms) == (before.progress, before.eta_ms)
    now += 1.0
    after = progress.step(2, 3, 4, None)
    assert (after.image, after.step, after.eta_ms) == (2, 3, 1000)


def job_in(queue, request_id, state="queued"):
    job = Job(queue.next_id(), request_id, "image.generate", None)
    queue.add(job)
    job.state = state
    return job


def test_the_queue_runs_one_job_at_a_time_first_come_first_served():
    queue = JobQueue(limit=4)
    first, second = job_in(queue, 1), job_in(queue, "1")
    assert queue.next_waiting() is first
    first.move("running")
    assert queue.next_waiting() is None
    assert queue.running() is first
    third = job_in(queue, 3)
    assert queue.counts() == JobCounts(running=1, queued=2)
    first.move("done")
    queue.remove(first)
    assert queue.all() == [second, third]
    assert queue.next_waiting() is second


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_queue_is_full_when_one_runs_and_as_many_wait_as_it_says(limit):
    queue = JobQueue(limit)
    queue.check_room()  # nothing runs, so the next job would start at once
    job_in(queue, 0, "running")
    for number in range(limit):
        queue.check_room()
        job_in(queue, 1 + number)
    with pytest.raises(RpcError) as caught:
        queue.check_room()
    assert (caught.value.kind, caught.value.data["maxQueue"]) == ("QueueFull", limit)


@pytest.mark.parametrize("letter", ["a", "\x01"])
def test_a_list_of_very_many_jobs_stays_below_the_limit_of_an_answer(letter):
    queue, ended = JobQueue(limit=2000), EndedJobs()
    for number in range(1000):
        job_in(queue, number).prompt = letter * MAX_PROMPT_BYTES
    calls: Any = (None, None, None)
    jobs = JobCalls(queue, ended, *calls).list(*calls[:2]).jobs
    listed = jsonrpc.encode_result(1, JobsListResult(jobs=jobs))
    assert len(jobs) == 1000
    assert jobs[0].prompt == letter * MAX_PROMPT_BYTES
    assert 3 << 20 < len(listed) < 8 << 20


def test_a_message_tells_phase_image_and_step_and_loading_tells_its_part():
    progress = Progress("job-1", 2, 4, lambda: 0.0)
    loading = [progress.phase("loading", 1, part).progress for part in (0.0, 0.5, 1.0)]
    assert loading[0] < loading[1] < loading[2]
    assert progress.phase("loading", 1).progress == loading[2]  # by a second engine, after the first one died
    assert (progress.phase("denoising", 1).step, progress.step(1, 4, 4, None).step) == (0, 4)
    progress.phase("saving", 1)
    second = progress.phase("denoising", 2)
    assert (second.phase, second.image, second.step, second.steps) == ("denoising", 2, 0, 4)
    progress.phase("decoding", 1)
    assert progress.step(2, 1, 4, None).phase == "denoising"


def test_the_last_state_of_a_job_keeps_the_latest_preview_of_its_image():
    preview = PreviewImage(mime_type="image/webp", width=1, height=1, data="AAAA", decoder="linear")
    progress, job = Progress("job-1", 2, 4, lambda: 0.0), Job("job-1", 1, "image.generate", None)
    job.note(progress.step(1, 1, 4, preview))
    job.note(progress.step(1, 2, 4, None))
    assert (job.last.step, job.last.preview) == (2, preview)
    job.note(progress.phase("decoding", 1))
    assert (job.last.phase, job.last.preview) == ("decoding", preview)
    job.note(progress.step(2, 1, 4, None))
    assert (job.last.image, job.last.preview) == (2, UNSET)


def test_the_last_message_of_a_job_that_is_done_has_progress_1():
    progress = Progress("job-1", 2, 4, lambda: 0.0)
    progress.step(1, 4, 4, None)
    progress.phase("saving", 1)
    last = progress.done()
    assert (last.progress, last.phase, last.image, last.step, last.eta_ms) == (1.0, "saving", 2, 4, 0)
    assert Progress("job-2", 1, 4, lambda: 0.0).done().progress == 1.0


class Ended:
    """A collection of ended jobs with its own clock."""

    def __init__(self):
        self.now = 0.0
        self.jobs = EndedJobs(lambda: self.now)

    def add(self, number, outcome=b"{}", state="done"):
        job = Job(f"job-{number}", number, "image.generate", None)
        job.state = state
        self.jobs.add(job, outcome if isinstance(outcome, RpcError) else msgspec.Raw(outcome))

    @property
    def ids(self):
        return [job.info.job_id for job in self.jobs.all()]


def test_ended_jobs_are_kept_for_ten_minutes_and_the_latest_come_first():
    ended = Ended()
    for number in (1, 2, 3):
        ended.now = 100.0 * number
        ended.add(number)
    assert ended.ids == ["job-3", "job-2", "job-1"]
    ended.now = 100 + MAX_SECONDS
    assert ended.jobs.get("job-1") is not None
    ended.now += 1
    assert ended.jobs.get("job-1") is None
    assert ended.ids == ["job-3", "job-2"]
    ended.now += 1000
    assert ended.ids == []


def test_no_more_ended_jobs_are_kept_than_announced():
    ended = Ended()
    for number in range(100):
        ended.add(number)
    assert ended.ids == [f"job-{number}" for number in range(99, 99 - MAX_JOBS, -1)]


def test_large_results_push_older_ones_out_and_the_latest_stays_however_large_it_is():
    ended = Ended()
    third = b'"' + b"x" * (MAX_BYTES // 3) + b'"'
    for number in range(5):
        ended.add(number, third)
    assert ended.ids == ["job-4", "job-3"]
    finished = [{"data": "x" * MAX_BYTES}]
    ended.add(5, RpcError("RequestCancelled", "Cancelled.", images=finished), "cancelled")
    assert ended.ids == ["job-5"]
    assert ended.jobs.get("job-5").outcome.data["images"] == finished
    ended.add(6)
    assert ended.ids == ["job-6"]


def test_an_error_that_is_kept_holds_nothing_of_where_it_was_raised():
    ended = Ended()
    try:
        raise RpcError("EngineCrashed", "It crashed.", phase="denoising")
    except RpcError as error:
        ended.add(1, error, "failed")
    kept = ended.jobs.get("job-1").outcome
    assert (kept.to_wire()["data"], kept.__traceback__) == (
        {"kind": "EngineCrashed", "retryable": True, "phase": "denoising"},
        None,
    )
