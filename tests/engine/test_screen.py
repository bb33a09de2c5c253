"""An engine in a stranger's hands: whatever it says, its job is answered, nothing is believed, the next one works."""

from __future__ import annotations

import json
import os
import sys

import anyio
import msgspec
import psutil
import pytest

from locara_sidecar.daemon import logs
from locara_sidecar.daemon.engine_host.output.screen import LogScreen, Screen, frame_bytes
from locara_sidecar.ipc import frames, framing
from locara_sidecar.ipc.errors import ENGINE_KINDS
from support.engines import Played, beginning_of_png, done_with, enter, finish, image_of, in_turn, ready, works

DEEP: dict = {}
for _ in range(50):
    DEEP = {"deeper": DEEP}


def step_of(spec, **changes):
    return frames.Step(**({"job": spec.job, "image": 1, "step": 1, "steps": spec.steps} | changes))


def preview_of(spec, **changes):
    members = {"data": b"RIFF\0\0\0\0WEBP", "mime_type": "image/webp", "width": 64, "height": 48, "decoder": "linear"}
    return step_of(spec, preview=frames.Preview(**(members | changes)))


def failed(spec, kind="InvalidOutput", message="no", **data):
    return frames.Failed(job=spec.job, kind=kind, message=message, data=data)


LIES = {
    "an image twice": lambda spec: [image_of(spec), image_of(spec)],
    "the second image first": lambda spec: [image_of(spec, image=2)],
    "an image of another seed": lambda spec: [image_of(spec, seed=spec.seed + 1)],
    "an image of another size": lambda spec: [image_of(spec, width=spec.width + 8)],
    "an image of a negative size": lambda spec: [image_of(spec, width=-1)],
    "a file of another size": lambda spec: [image_of(spec, data=beginning_of_png(1, 1))],
    "a page named image": lambda spec: [image_of(spec, data=b"<html><script>alert(1)</script>")],
    "another type of file": lambda spec: [image_of(spec, mime_type="image/jpeg", data=b"\xff\xd8\xff\xe0")],
    "no image": lambda spec: [done_with(spec)],
    "a step too many": lambda spec: [step_of(spec, step=5, steps=5)],
    "step 0": lambda spec: [step_of(spec, step=0)],
    "a step of image 0": lambda spec: [step_of(spec, image=0)],
    "a drawing named preview": lambda spec: [preview_of(spec, data=b"<svg xmlns='http://www.w3.org/2000/svg'>")],
    "a preview of another type": lambda spec: [preview_of(spec, mime_type="image/png", data=beginning_of_png(64, 48))],
    "a preview that is too long": lambda spec: [preview_of(spec, data=b"RIFF\0\0\0\0WEBP" + bytes(4096))],
    "a preview that is too wide": lambda spec: [preview_of(spec, width=65)],
    "a phase of the daemon's": lambda spec: [frames.PhaseStarted(job=spec.job, phase="saving", image=1)],
    "a fraction that is no number": lambda spec: [
        frames.PhaseStarted(job=spec.job, phase="loading", image=1, fraction=float("nan"))
    ],
    "another engine": lambda spec: [image_of(spec), done_with(spec, engine="mlx")],
    "another precision": lambda spec: [image_of(spec), done_with(spec, {"precision": "evil"})],
    "another quantization": lambda spec: [image_of(spec), done_with(spec, {"quantization": "evil"})],
    "a time that is no number": lambda spec: [image_of(spec), done_with(spec, load=float("inf"))],
    "less than no memory": lambda spec: [image_of(spec), done_with(spec, peak_memory=-1)],
    "a warning of 1 MB": lambda spec: [image_of(spec), done_with(spec, warnings=[("Evil", "x" * 1_000_000)])],
    "a thousand warnings": lambda spec: [image_of(spec), done_with(spec, warnings=[("Evil", "x")] * 1000)],
    "something was loaded": lambda spec: [
        frames.Loaded(job=spec.job, engine="fake", device="cpu", quantization="none", precision="float32", memory=1)
    ],
    "something was prepared": lambda spec: [frames.Prepared(job=spec.job, quantization="8bit", precision="float32")],
    "a message of 1 MB": lambda spec: [failed(spec, message="x" * 1_000_000)],
    "data that is no JSON": lambda spec: [failed(spec, extension=msgspec.msgpack.Ext(5, b"x"))],
    "a key that is null": lambda spec: [failed(spec, inner={None: 1})],
    "data of great depth": lambda spec: [failed(spec, **DEEP)],
    "data that is no number": lambda spec: [failed(spec, needed=float("inf"))],
    "a kind in its data": lambda spec: [failed(spec, images=[])],
    "retryable perhaps": lambda spec: [failed(spec, retryable="perhaps")],
    "a second start": lambda spec: [
        frames.Ready(version=frames.VERSION, engine="fake", device="cpu", pid=1, sandbox=None),
    ],
}
DENIALS = ("CapabilityDenied", "LicenseNotAccepted", "ParseError", "RequestCancelled", "EngineStalled", "Whatever")


@pytest.mark.parametrize("lie", LIES)
def test_an_engine_that_lies_is_ended_its_job_fails_and_the_next_one_works(drive, spec, lie):
    def lies(connection, job):
        enter(connection, job)
        connection.say(*LIES[lie](job), done_with(job))

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


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": "mlx"},
        {"device": "x" * 10_000},
        {"note": "x" * 10_000},
        {"sandbox": frames.SandboxReport(kind="none", enforced=True, reason="x" * 10_000)},
        {"sandbox": frames.SandboxReport(kind="none", enforced=True, reason="", details={"a": "x" * 10_000})},
        {"sandbox": frames.SandboxReport(kind="", enforced=True, reason="", details={str(n): "" for n in range(999)})},
    ],
)  # fmt: skip
def test_an_engine_that_lies_as_it_starts_is_unavailable(drive, spec, changes):
    async def body(client):
        error = await client.fails(spec())
        assert (error.kind, error.data["reason"]) == ("EngineUnavailable", "protocol")
        assert client.sandbox is None

    drive(body, lambda: Played(finish, on_start=lambda connection, start: connection.say(ready(start, **changes))))


def test_log_records_of_an_engine_are_plain_bounded_and_keep_prompts_out(drive, spec):
    evil = {"ts": "never", "msg": "other", "deep": DEEP, "text": "a lighthouse", "n": 7, "\n": "x"}

    def logs_a_lot(connection, job):
        for number in range(300):
            connection.say(
                frames.Log(level="evil", logger=f"l{number}x".translate({48 + i: 97 + i for i in range(10)}), msg="x")
            )
        connection.say(frames.Log(level="info", logger="engine", msg="it draws a lighthouse", fields=evil))
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


def test_no_field_takes_the_place_of_a_records_own():
    line = json.loads(logs._encode("info", "a", "b", {"ts": 1, "level": "x", "logger": "x", "msg": "x", "more": 2}))
    assert (line["level"], line["logger"], line["msg"], line["more"]) == ("info", "a", "b", 2)
    assert isinstance(line["ts"], str)


def test_a_name_of_a_logger_is_a_name():
    screen = LogScreen()
    for name in ("Engine", "a" * 41, "a.b.c.d.e", "a\n", ""):
        cleaned = screen.clean(frames.Log(level="info", logger=name, msg=""), str)
        assert cleaned.logger == "unnamed"


# --- a real child, whose bytes are no frames ------------------------------------------------

CHILD = """
import os, sys, msgspec
from locara_sidecar.ipc import frames, framing

def say(body):
    os.write(1, len(body).to_bytes(4, "big"))
    view = memoryview(body)
    while view:
        view = view[os.write(1, view):]

os.write(1, framing.PREAMBLE)
reader = framing.FrameReader()
while data := os.read(0, 1 << 16):
    for body in reader.feed(data):
        command = framing.decode_command(body)
        if isinstance(command, frames.Start):
            say(framing.encode(frames.Ready(version=frames.VERSION, engine="fake", device="cpu", pid=os.getpid()))[4:])
        elif isinstance(command, frames.Generate):
            job = command.spec.job
            {act}
"""
BYTES = {
    "nested without end": "say(bytes([0x91]) * 200_000)",
    "an extension for an event": "say(msgspec.msgpack.encode(msgspec.msgpack.Ext(3, b'x')))",
    "a member that is no text": r"say(b'\x82\xa4type\xa6failed\xa3job\xa1\xff')",
    "a frame of 400 MB": "os.write(1, (400_000_000).to_bytes(4, 'big')); say(bytes(300_000_000))",
    "an image of 20 MB": (
        "say(framing.encode(frames.Image(job=job, image=1, seed=7, data=bytes(20 << 20), mime_type='image/png', "
        "width=128, height=96))[4:])"
    ),
}


@pytest.mark.parametrize("act", BYTES)
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_bytes_that_are_no_frames_cost_one_job_and_no_memory(drive_process, spec, act):
    argv = [sys.executable, "-c", CHILD.replace("{act}", BYTES[act])]
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


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("auto", {"quantization": "none"}),
        ("auto", {"quantization": "evil"}),
        ("auto", {"precision": "evil"}),
        ("4bit", {}),
        ("auto", {"components": ["../vae"]}),
        ("auto", {"components": ["a"] * 1000}),
        ("auto", {"there": "/forms/b"}),
        ("auto", {"there": "/forms/a", "quantization": "4bit"}),
        ("auto", {"there": "/forms/a", "precision": "float32"}),
    ],
)
def test_what_was_prepared_is_what_was_asked_for(spec, asked, said):
    model = msgspec.structs.replace(spec().model, quantization=asked, prepared=[FORM])
    screen = Screen(frames.PrepareSpec(job="p", model=model, into="/made"), "mlx")
    screen.check(frames.Prepared(job="p", **SAID | {"quantization": "4bit" if asked == "4bit" else "8bit"}))
    if asked == "auto":
        screen.check(frames.Prepared(job="p", there=FORM.path, **SAID))
    with pytest.raises(framing.FrameError):
        screen.check(frames.Prepared(job="p", **SAID | said))
