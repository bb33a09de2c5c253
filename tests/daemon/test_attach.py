"""A reloaded web view finds its job again, gets the job's further messages and finally its result."""

import os
import threading
import time

import pytest

from locara_sidecar.daemon.wire import outbox
from support.edit_calls import png, sent
from support.host import error_of, manifest, until

PREVIEWS = {"mode": "full"}


def job_of(call):
    return until(call, "queued")["jobId"]


def jobs(host):
    return {job["jobId"]: job for job in host.call("jobs.list")["jobs"]}


def result_of(host, job):
    return host.call("jobs.result", {"jobId": job})


@pytest.fixture
def drawing(hosts):
    """A host, one of its calls (a slow one, now denoising), and the job's id."""
    host = hosts.session()
    call = host.begin("fake:slow=30 a lake", steps=20, seed=1, preview=PREVIEWS)
    return host, call, until(call, "denoising", 2)["jobId"]


def test_a_job_goes_on_on_another_channel_from_its_last_state_to_its_end(drawing):
    host, call, job = drawing
    known = jobs(host)[job]["last"]
    stream = host.attach(job, timeout=5)
    assert jobs(host)[job]["channel"] == stream.channel
    list(call.messages())  # it ends, and the client checks its count
    messages = list(stream.messages())  # the client refuses a gap
    assert messages[0]["step"] >= known["step"] >= 2
    assert "preview" in messages[0]
    assert [message["step"] for message in messages] == sorted(message["step"] for message in messages)
    assert messages[-1]["progress"] == 1
    assert result_of(host, job) == call.result(5)


@pytest.mark.slow
def test_the_answer_of_attach_tells_the_state_and_comes_after_the_end_of_the_old_channel(drawing):
    host, call, job = drawing
    answer = host.call("jobs.attach", {"jobId": job, "channel": "__CHANNEL__:4000000000"}, timeout=5)
    assert answer == {"jobId": job, "state": "running"}
    lines = [line for way, line in list(host.lines) if way == "receive"]
    end = next(index for index, line in enumerate(lines) if b'"end":true' in line)
    assert b'"channel":%d,' % call.channel in lines[end]
    assert b'"state":"running"' in b"".join(lines[end:])
    assert not any(b'"state":"running"' in line for line in lines[:end])
    assert call.result(20)["images"]


def test_a_job_that_never_had_a_channel_gets_one(hosts):
    host = hosts.session()
    call = host.start("image.generate", {"prompt": "fake:slow=20 a lake", "options": {"steps": 10}})
    while not (known := jobs(host)):
        pass
    (job,) = known
    messages = list(host.attach(job, timeout=5).messages())
    assert messages[-1]["progress"] == 1
    assert call.result(5)["jobId"] == job


@pytest.mark.slow
def test_the_old_channel_s_number_is_free_again_and_the_new_one_is_taken(hosts):
    host = hosts.session()
    generate = (
        b'{"jsonrpc":"2.0","id":"%s","method":"image.generate","params":{"prompt":"fake:slow=%d a","channel":%d}}'
    )
    host.send_raw(generate % (b"first", 20000, 50))
    while not (known := jobs(host)):
        pass
    (job,) = known
    assert host.call("jobs.attach", {"jobId": job, "channel": 51}, timeout=5)["state"] in ("queued", "running")
    assert wrong(host, "image.generate", prompt="a lake", channel=51) == ("InvalidParams", "$.channel")
    host.send_raw(generate % (b"second", 1, 50))
    assert host.call("image.cancel", {"jobId": job}) == {"cancelled": True}
    counts = {50: [], 51: []}
    answered = []
    while len(answered) < 2:
        message = host.next_unmatched(20)
        if "method" in message:
            counts[message["params"]["channel"]].append(message["params"])
        else:
            answered.append(message["id"])
    assert answered == ["first", "second"]
    first = next(index for index, frame in enumerate(counts[50]) if frame.get("end"))
    for frames in (counts[50][: first + 1], counts[50][first + 1 :], counts[51]):
        assert [frame["index"] for frame in frames] == list(range(len(frames)))
        assert frames[-1]["end"] is True


@pytest.mark.slow
def test_attaching_again_ends_the_channel_before(drawing):
    host, call, job = drawing
    streams = [host.attach(job, timeout=5) for _ in range(5)]
    list(call.messages())
    for stream in streams[:-1]:
        assert len(list(stream.messages())) >= 1
    assert list(streams[-1].messages())[-1]["progress"] == 1
    assert call.result(5)["images"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["request", "job"])
def test_a_cancel_after_attaching_ends_the_new_channel_and_answers_the_call(drawing, way):
    host, call, job = drawing
    stream = host.attach(job, timeout=5)
    if way == "job":
        assert host.call("image.cancel", {"jobId": job}) == {"cancelled": True}
    else:
        call.cancel()
    error = error_of(call, 5)
    assert error.kind == "RequestCancelled"
    assert list(stream.messages())[-1]["progress"] < 1
    again = error_of(host.start("jobs.result", {"jobId": job}))
    assert (again.code, again.message, again.data) == (error.code, error.message, error.data)
    assert jobs(host)[job]["state"] == "cancelled"


@pytest.mark.slow
def test_a_waiting_job_can_be_attached_to(drawing):
    host, first, _ = drawing
    second = host.begin(steps=2)
    stream = host.attach(job_of(second), timeout=5)
    first.cancel()
    messages = list(stream.messages())
    assert (messages[0]["phase"], messages[-1]["progress"]) == ("queued", 1)
    assert second.result(5)["images"]


@pytest.mark.slow
def test_attaching_to_a_job_that_has_ended_gives_its_last_state_and_the_end_at_once(hosts):
    host = hosts.session()
    call = host.begin(steps=3, preview=PREVIEWS)
    job = job_of(call)
    result = call.result(20)
    (message,) = host.attach(job, timeout=5).messages()
    assert message["progress"] == 1
    assert "preview" in message
    answer = host.call("jobs.attach", {"jobId": job, "channel": 77}, timeout=5)
    assert answer == {"jobId": job, "state": "done"}
    frames = [host.next_unmatched(5)["params"] for _ in range(2)]
    assert [frame["index"] for frame in frames] == [0, 1]
    assert frames[1] == {"channel": 77, "index": 1, "end": True}
    assert result_of(host, job) == result


@pytest.mark.slow
def test_jobs_that_have_ended_stay_in_the_list_with_state_and_preview_the_latest_first(hosts):
    host = hosts.session()
    first, second = host.begin(steps=2, preview=PREVIEWS), host.begin("fake:error a lake", steps=2)
    names = [job_of(first), job_of(second)]
    assert first.result(20)
    failure = error_of(second)
    listed = host.call("jobs.list")["jobs"]
    assert [(job["jobId"], job["state"]) for job in listed] == [(names[1], "failed"), (names[0], "done")]
    assert (listed[1]["last"]["progress"], "preview" in listed[1]["last"]) == (1, True)
    assert "channel" not in listed[1]
    again = error_of(host.start("jobs.result", {"jobId": names[1]}))
    assert (again.kind, again.message, again.data) == (failure.kind, failure.message, failure.data)


def test_the_list_has_a_pictures_prompt_and_size_while_it_waits_and_when_it_has_ended(hosts):
    host = hosts.spawn(engine="fake")
    host.initialize(manifest=manifest(modalities=("text-to-image", "image-to-image")), grants={})
    inline = {"model": "pocket", "output": {"mode": "inline"}}

    def told(job):
        return {name: jobs(host)[job].get(name) for name in ("prompt", "width", "height")}

    call = host.begin("fake:slow=60000 a lake", **inline)
    drawn = until(call, "denoising")["jobId"]
    waiting = job_of(host.begin("a blue boat", width=128, **inline))
    change = {"prompt": "a tree", "image": sent(png((128, 128))), "options": inline}
    changed = job_of(host.start("image.edit", change, stream=True))
    assert told(waiting) == {"prompt": "a blue boat", "width": 128, "height": 128}
    assert told(changed) == {"prompt": "a tree", "width": None, "height": None}
    call.cancel()
    assert error_of(call).kind == "RequestCancelled"
    assert told(drawn) == {"prompt": "fake:slow=60000 a lake", "width": 128, "height": 128}


@pytest.mark.slow
def test_a_result_with_its_picture_inline_is_told_again_whole(hosts):
    host = hosts.session()
    result = host.generate(steps=2, output={"mode": "inline"})
    assert result_of(host, result["jobId"]) == result


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_the_last_message_of_a_job_that_succeeded_has_progress_1_and_no_other_has(hosts, count):
    call = hosts.session().begin(steps=3, count=count)
    progress = [message["progress"] for message in call.messages()]
    assert progress[-1] == 1
    assert max(progress[:-1]) < 1
    assert len(call.result(5)["images"]) == count


@pytest.mark.slow
def test_a_job_that_fails_never_says_that_it_is_done(hosts):
    call = hosts.session().begin("fake:error a lake", steps=3)
    assert max(message["progress"] for message in call.messages()) < 1
    assert error_of(call).kind == "InternalError"


@pytest.mark.slow
def test_loading_a_model_can_be_attached_to_and_its_answer_told_again(hosts):
    host = hosts.session(env={**os.environ, "LOCARA_FAKE_LOAD_MS": "1500"})
    call = host.start("models.load", {"model": "pocket"}, stream=True)
    until_loading = next(message for message in call.messages() if message["phase"] == "loading")
    (job,) = jobs(host)
    assert jobs(host)[job]["lastProgress"]["phase"] == "loading"
    messages = list(host.attach(job, timeout=5).messages())
    assert messages[-1]["bytes"] == messages[-1]["totalBytes"] == until_loading["totalBytes"] > 0
    assert result_of(host, job) == call.result(5)


def wrong(host, method, **params):
    error = error_of(host.start(method, params))
    return error.kind, error.data.get("path")


@pytest.mark.slow
def test_what_cannot_be_attached_to_is_refused_and_changes_nothing(drawing):
    host, call, job = drawing
    before = jobs(host)[job]["channel"]
    assert wrong(host, "jobs.attach", jobId="job-99", channel=8) == ("InvalidParams", "$.jobId")
    assert wrong(host, "jobs.attach", jobId=job, channel=call.channel) == ("InvalidParams", "$.channel")
    assert wrong(host, "jobs.attach", jobId=job, channel=-1) == ("InvalidParams", "$.channel")
    assert wrong(host, "jobs.attach", jobId=job, channel="7") == ("InvalidParams", "$.channel")
    assert wrong(host, "jobs.attach", jobId=job) == ("InvalidParams", "$.channel")
    assert wrong(host, "jobs.attach", channel=8) == ("InvalidParams", "$.jobId")
    assert wrong(host, "jobs.result", jobId="job-99") == ("InvalidParams", "$.jobId")
    assert wrong(host, "jobs.result", jobId=job) == ("InvalidRequest", None)
    assert jobs(host)[job]["channel"] == before
    assert list(call.messages())[-1]["progress"] == 1


@pytest.mark.slow
def test_attaching_while_the_end_is_being_written_is_served_whichever_comes_first(hosts):
    """The host's request and the job's end cross; each channel ends once, and its count is right."""
    host = hosts.session()
    for number in range(30):
        call = host.begin(steps=1 + number % 3, seed=number)
        job = job_of(call)
        streams = [host.attach(job, timeout=5) for _ in range(1 + number % 4)]
        assert call.result(20)["images"]
        assert list(streams[-1].messages())[-1]["progress"] == 1
        for stream in (call, *streams[:-1]):
            list(stream.messages())
        assert result_of(host, job) == call.result(0)


def test_a_host_that_attaches_and_never_reads_is_held_back():
    """Each abandoned channel counts as unread output, so the daemon's memory does not grow."""
    box = outbox.Outbox()
    for number in range(10_000):
        box.close_channel(outbox.Channel(number, "DiffusionStep"), None, replaced=True)
    assert box.backlog() > outbox.HIGH_WATER_BYTES
    box.close()
    written = threading.Thread(target=lambda: [None for _ in iter(lambda: box.take(1 << 20), None)])
    written.start()
    written.join(20)
    assert box.backlog() == 0


@pytest.mark.slow
def test_a_host_that_stops_reading_finds_every_index_and_the_end_when_it_reads_again(hosts):
    host = hosts.spawn()
    held = threading.Event()
    host.initialize(manifest=manifest(), grants={"user-folder": str(host.folder)})
    host._record, passed = (lambda way, line: way == "receive" and held.wait(20)), host._record
    call = host.begin(steps=50, preview=PREVIEWS)
    streams = []
    deadline = time.monotonic() + 20
    attach = b'{"jsonrpc":"2.0","id":"a%d","method":"jobs.attach","params":{"jobId":"job-1","channel":%d}}'
    for number in range(200):
        assert time.monotonic() < deadline
        host.send_raw(attach % (number, 1000 + number))
        streams.append(1000 + number)
    held.set()
    host._record = passed
    frames = {channel: [] for channel in streams}
    answers = 0
    while answers < len(streams):
        message = host.next_unmatched(20)
        if "method" in message:
            frames[message["params"]["channel"]].append(message["params"])
        else:
            answers += "result" in message
            assert "result" in message, message
    assert call.result(20)["images"]
    last = frames[streams[-1]]
    while not (last and last[-1].get("end")):
        last.append(host.next_unmatched(20)["params"])
    for channel in streams:
        assert [frame["index"] for frame in frames[channel]] == list(range(len(frames[channel])))
        assert frames[channel][-1].get("end") is True
        assert len(frames[channel]) >= 2
