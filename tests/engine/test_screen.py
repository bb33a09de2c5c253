"""A hostile engine: whatever it sends, its job is answered, nothing is believed, and the next job works."""

from __future__ import annotations

import json
import os

import anyio
import msgspec
import psutil
import pytest

from locara_sidecar.daemon.engine_host.output.screen import LogScreen, Screen, frame_bytes
from locara_sidecar.daemon.engine_host.output.stderr import PromptFilter
from locara_sidecar.daemon.process import logs
from locara_sidecar.ipc import frames, framing
from locara_sidecar.ipc.errors import ENGINE_KINDS
from support.engine_frames import done_with, enter, finish, image_of, ready
from support.engines import Played, in_turn, works
from support.evil import speaker
from support.evil.lies import (
    BYTES,
    DENIALS,
    LIES,
    PREPARED,
    STARTS,
    event_of_lists,
    failed,
    log_that_overwrites,
    names_of_loggers,
    preview_of,
)
from support.evil.speaker import told


@pytest.mark.parametrize("lie", LIES)
def test_an_engine_that_lies_is_ended_its_job_fails_and_the_next_one_works(drive, spec, lie):
    def lies(connection, job):
        said = LIES[lie](job)
        kinds = {type(event) for event in said}
        # what follows is true, so that it is the lie that costs the job
        rest = [] if frames.Done in kinds else [done_with(job)]
        rest = rest if kinds & {frames.Done, frames.Image} else [image_of(job), *rest]
        enter(connection, job)
        connection.say(*said, *rest)

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["reason"]) == ("EngineCrashed", "protocol")
        await works(client, spec)
        assert len(client.started) == 2

    act = in_turn(lies, finish)
    drive(body, lambda: Played(act))


@pytest.mark.parametrize("kind", DENIALS)
def test_an_engine_cannot_speak_for_the_gate_the_hub_or_the_daemon(drive, spec, kind):
    def denies(connection, job):
        connection.say(failed(job, kind=kind, declare={"models": ["*"]}, url="https://evil.example"))

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data) == ("EngineCrashed", {"reason": "protocol", "phase": "loading"})
        await works(client, spec)

    act = in_turn(denies, finish)
    drive(body, lambda: Played(act))


@pytest.mark.parametrize("kind", sorted(ENGINE_KINDS))
def test_what_an_engine_may_fail_with_is_answered_as_it_is(drive, spec, kind):
    data = {"path": "$.options.size", "needed": 1 << 40, "suggestions": ["smaller"], "retryable": True}

    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.message, error.retryable) == (kind, "no", True)
        assert error.data == {name: value for name, value in data.items() if name != "retryable"}
        assert len(client.started) == 1

    drive(body, lambda: Played(lambda connection, job: connection.say(failed(job, kind=kind, **data))))


@pytest.mark.parametrize("changes", STARTS.values(), ids=STARTS)
def test_an_engine_that_lies_as_it_starts_is_unavailable(drive, spec, changes):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["reason"]) == ("EngineUnavailable", "protocol")
        assert client.sandbox is None

    drive(body, lambda: Played(finish, on_start=lambda connection, start: connection.say(ready(start, **changes))))


def test_log_records_of_an_engine_are_plain_bounded_and_keep_prompts_out(drive, spec):
    def logs_a_lot(connection, job):
        connection.say(*names_of_loggers(300), log_that_overwrites("it draws a lighthouse"))
        finish(connection, job)

    async def body(client):
        await works(client, spec)
        own = [record for record in client.logs if record.logger != "engine.sandbox"]
        assert len({record.logger for record in own}) <= 101
        assert {record.level for record in own} == {"info"}
        last = own[-1]
        assert "lighthouse" not in last.msg + str(last.fields)
        assert last.fields["n"] == 7
        assert "deep" not in last.fields

    drive(body, lambda: Played(logs_a_lot))


def test_a_prompt_is_kept_out_of_every_part_of_a_record():
    watched = PromptFilter()
    watched.watch("a lighthouse in the fog")
    said = "it draws a lighthouse in the fog"
    fields = {"a": [said, 1], "b": {"c": said}, "d": {said: 1}, "e": [[said]], "n": [1, "x"]}
    fields |= {"a_lighthouse_in_the_fog": 1}
    record = frames.Log(level="info", logger="alighthouseinthefog", msg=said, fields=fields)
    (cleaned,) = LogScreen().clean(record, watched.clean)
    assert "lighthouse" not in str(cleaned)
    assert cleaned.fields["n"] == [1, "x"]
    assert cleaned.logger == "unnamed"


def test_no_more_of_a_records_fields_is_looked_at_than_a_line_of_the_log_holds():
    looked_at = []
    letters = {48 + digit: 97 + digit for digit in range(10)}
    names = [f"x{n}".translate(letters) for n in range(10_000)]
    for value in ("y" * 3000, ["y" * 300] * 10, 1, []):
        looked_at.clear()
        record = frames.Log(level="info", logger="engine", msg="", fields=dict.fromkeys(names, value))
        (cleaned,) = LogScreen().clean(record, lambda text: looked_at.append(text) or text)
        assert 1 <= len(cleaned.fields) <= 32
        assert sum(map(len, looked_at)) < 12_000


@pytest.mark.parametrize("kind", ["failed", "log"])
def test_only_pictures_are_long_frames(kind, spec):
    for lists in (60_000, 70_000):
        body = event_of_lists(lists, kind, job="1", kind="x")
        if lists == 70_000:
            with pytest.raises(framing.FrameError):
                framing.decode_event(body)
        else:
            framing.decode_event(body)
    job = spec()
    for event in (image_of(job, data=bytes(200_000)), preview_of(job, data=bytes(200_000))):
        assert framing.decode_event(framing.encode(event)[4:]) == event


def test_no_field_takes_the_place_of_a_records_own():
    line = json.loads(logs._encode("info", "a", "b", {"ts": 1, "level": "x", "logger": "x", "msg": "x", "more": 2}))
    assert (line["level"], line["logger"], line["msg"], line["more"]) == ("info", "a", "b", 2)
    assert isinstance(line["ts"], str)


def test_a_name_of_a_logger_is_a_name():
    screen = LogScreen()
    for name in ("Engine", "a" * 41, "a.b.c.d.e", "a\n", ""):
        (cleaned,) = screen.clean(frames.Log(level="info", logger=name, msg=""), str)
        assert cleaned.logger == "unnamed"


def test_an_engine_cannot_fill_the_log():
    now = [0.0]
    screen, record = LogScreen(lambda: now[0]), frames.Log(level="info", logger="engine", msg="x")
    assert sum(len(screen.clean(record, str)) for _ in range(100_000)) == 500
    now[0] = 1.0
    told = [one.msg for _ in range(100) for one in screen.clean(record, str)]
    assert told == ["99500 log records of the engine were dropped", *["x"] * 20]


# --- a real child that does not write frames ------------------------------------------------


@pytest.mark.parametrize("act", BYTES)
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_bytes_that_are_no_frames_cost_one_job_and_no_memory(drive_process, spec, act, tmp_path):
    argv = speaker.argv(told(tmp_path, act))
    before = psutil.Process().memory_info().rss

    async def body(client):
        with anyio.fail_after(60):
            error = await client.fails(spec())
        assert (error.kind, error.data["reason"]) == ("EngineCrashed", "protocol")
        assert psutil.Process().memory_info().rss < before + (16 << 20)

    drive_process(body, argv)


def test_the_longest_frame_follows_what_was_asked(spec):
    assert frame_bytes(None) < frame_bytes(spec()) < frame_bytes(spec(width=1024, height=1024)) < 6 << 20
    sides = frames.Sides(minimum=16, maximum=1 << 20, multiple_of=16, max_pixels=1 << 40)
    endless = msgspec.structs.replace(spec(width=0, height=0), model=msgspec.structs.replace(spec().model, sides=sides))
    assert frame_bytes(endless) == framing.MAX_FRAME_BYTES
    with pytest.raises(framing.FrameError):
        list(framing.FrameReader().feed((2000).to_bytes(4, "big"), 1000))


FORM = frames.PreparedForm(quantization="8bit", precision="bfloat16", path="/forms/a")
SAID = {"quantization": "8bit", "precision": "bfloat16", "components": ["transformer"]}


@pytest.mark.parametrize(("asked", "said"), PREPARED.values(), ids=PREPARED)
def test_what_was_prepared_is_what_was_asked_for(spec, asked, said):
    model = msgspec.structs.replace(spec().model, quantization=asked, prepared=[FORM])
    screen = Screen(frames.PrepareSpec(job="p", model=model, into="/made"), "mlx")
    screen.check(frames.Prepared(job="p", **SAID | {"quantization": "4bit" if asked == "4bit" else "8bit"}))
    if asked == "auto":
        screen.check(frames.Prepared(job="p", there=FORM.path, **SAID))
    with pytest.raises(framing.FrameError):
        screen.check(frames.Prepared(job="p", **SAID | said))
