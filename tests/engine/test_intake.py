"""Which of an engine's bytes are decoded at all, and which are thrown away first."""

from __future__ import annotations

import msgspec
import pytest

from locara_sidecar.daemon.engine_host.output import intake
from locara_sidecar.ipc import frames, framing
from support.engine_frames import image_of
from support.evil.lies import event_of_lists, framed

LOG = framing.encode(frames.Log(level="info", logger="engine", msg="x"))


@pytest.fixture
def heard(spec, monkeypatch):
    """Return an intake that expects a job, and a count of the frames that it decodes."""
    decoded = []
    real = framing.decode_event
    monkeypatch.setattr(framing, "decode_event", lambda body: decoded.append(body) or real(body))
    now = [0.0]
    one = intake.Intake(lambda: now[0])
    one.expect(spec())
    return one, decoded, now


def test_log_records_above_the_rate_are_not_read_and_are_counted(heard):
    one, decoded, now = heard
    assert len(list(one.feed(LOG * 5000))) == len(decoded) == 1000
    now[0] = 1.0
    told = list(one.feed(LOG * 100))
    assert told[0].msg == "4000 records of the engine were left out unread"
    assert len(told) == 41
    assert len(decoded) == 1040


def test_a_log_record_that_no_line_of_the_log_holds_is_not_read(heard):
    one, decoded, _ = heard
    assert list(one.feed(framed(event_of_lists(20_000, "log")))) == []
    assert not decoded
    (note, record) = one.feed(LOG)
    assert "1 records" in note.msg
    assert record.msg == "x"


def test_what_is_said_of_another_job_is_not_read(heard, spec):
    one, decoded, _ = heard
    assert list(one.feed(framed(event_of_lists(60_000, "failed", job="other", kind="x")))) == []
    assert list(one.feed(framing.encode(frames.Heartbeat(job="other")))) == []
    assert not decoded
    beat = frames.Heartbeat(job=spec().job)
    assert list(one.feed(framing.encode(beat) + framing.encode(image_of(spec())))) == [beat, image_of(spec())]


def _twice(name, first, second, **members):
    pack = msgspec.msgpack.encode
    pairs = [(name, first), *members.items(), (name, second)]
    return bytes([0x80 + len(pairs)]) + b"".join(pack(word) for pair in pairs for word in pair)


@pytest.mark.parametrize("turned", [False, True])
def test_an_event_that_says_two_things_of_what_it_is_is_none(heard, spec, turned):
    one, _, _ = heard
    own = spec().job
    for name, first, second, more in (
        ("type", "log", "heartbeat", {"level": "info", "logger": "engine", "msg": "", "job": own}),
        ("job", own, "other", {"type": "heartbeat"}),
    ):
        first, second = (second, first) if turned else (first, second)
        try:
            told = list(one.feed(framed(_twice(name, first, second, **more))))
        except framing.FrameError:
            continue
        assert all(event == frames.Heartbeat(job=own) for event in told), "it counts as one of the two throughout"


def test_what_has_no_job_or_no_type_is_no_event(heard):
    for said in (
        {"type": "image"},
        {"type": "heartbeat"},
        {"job": "1"},
        {"type": 1},
        {"type": "heartbeat", "job": 1},
        [],
    ):
        one = intake.Intake()
        with pytest.raises(framing.FrameError):
            list(one.feed(framed(msgspec.msgpack.encode(said))))
