"""What an engine under an attacker's control sends: one table for the tests of the screen, which play it in memory, and
for the campaign, where a child sends it to a real daemon (``speaker.py``, ``hearing.py``). To add a lie, add a row.

A lie is a function of the job's description that returns the frames to send.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from locara_sidecar.ipc import frames, framing
from support.engine_frames import beginning_of_png, done_with, image_of

if TYPE_CHECKING:
    from collections.abc import Callable

WEBP = b"RIFF\0\0\0\0WEBP"
BOAST = frames.SandboxReport(kind="evil", enforced=True, reason="nothing to see here")
DEEP: dict[str, Any] = {}
for _ in range(50):
    DEEP = {"deeper": DEEP}


def step_of(spec: frames.JobSpec, **changes: Any) -> frames.Step:
    members: dict[str, Any] = {"job": spec.job, "image": 1, "step": 1, "steps": spec.steps}
    return frames.Step(**(members | changes))


def preview_of(spec: frames.JobSpec, **changes: Any) -> frames.Step:
    members: dict[str, Any] = {
        "data": b"RIFF\0\0\0\0WEBP",
        "mime_type": "image/webp",
        "width": 64,
        "height": 48,
        "decoder": "linear",
    }
    return step_of(spec, preview=frames.Preview(**(members | changes)))


def failed(spec: frames.JobSpec, kind: str = "InvalidOutput", message: str = "no", **data: Any) -> frames.Failed:
    return frames.Failed(job=spec.job, kind=kind, message=message, data=data)


LIES: dict[str, Callable[[frames.JobSpec], list[frames.Event]]] = {
    "an image twice": lambda spec: [image_of(spec), image_of(spec)],
    "the second image first": lambda spec: [image_of(spec, image=2)],
    "an image of another seed": lambda spec: [image_of(spec, seed=spec.seed + 1)],
    "an image of another size": lambda spec: [image_of(spec, width=spec.width + 8)],
    "an image of a negative size": lambda spec: [image_of(spec, width=-1)],
    "a file of another size": lambda spec: [image_of(spec, data=beginning_of_png(1, 1))],
    "a page named image": lambda spec: [image_of(spec, data=b"<html><script>alert(1)</script>")],
    "another type of file": lambda spec: [image_of(spec, mime_type="image/jpeg", data=b"\xff\xd8\xff\xe0")],
    "no image": lambda spec: [done_with(spec)],
    "a step too many": lambda spec: [step_of(spec, step=spec.steps + 1, steps=spec.steps + 1)],
    "step 0": lambda spec: [step_of(spec, step=0)],
    "a step of image 0": lambda spec: [step_of(spec, image=0)],
    "a drawing named preview": lambda spec: [preview_of(spec, data=b"<svg xmlns='http://www.w3.org/2000/svg'>")],
    "a preview of another type": lambda spec: [preview_of(spec, mime_type="image/png", data=beginning_of_png(64, 48))],
    "a preview that is too long": lambda spec: [
        preview_of(spec, data=b"RIFF\0\0\0\0WEBP" + bytes(spec.preview.max_bytes))
    ],
    "a preview that is too wide": lambda spec: [preview_of(spec, width=spec.preview.max_side + 1)],
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
        frames.Ready(version=frames.VERSION, engine="fake", device="cpu", pid=1, sandbox=BOAST),
    ],
}
DENIALS = ("CapabilityDenied", "LicenseNotAccepted", "ParseError", "RequestCancelled", "EngineStalled", "Whatever")


# --- as it starts, and of what it has prepared ----------------------------------------------

STARTS: dict[str, dict[str, Any]] = {
    "another engine starts": {"engine": "another"},
    "a device of 10,000 letters": {"device": "x" * 10_000},
    "a note of 10,000 letters": {"note": "x" * 10_000},
    "a sandbox with a long reason": {"sandbox": msgspec.structs.replace(BOAST, reason="x" * 10_000)},
    "a sandbox with a long detail": {"sandbox": msgspec.structs.replace(BOAST, details={"a": "x" * 10_000})},
    "a sandbox of 999 details": {"sandbox": msgspec.structs.replace(BOAST, details={str(n): "" for n in range(999)})},
}
PREPARED: dict[str, tuple[str, dict[str, Any]]] = {
    "nothing was quantized": ("auto", {"quantization": "none"}),
    "bits that there are not": ("auto", {"quantization": "evil"}),
    "a precision that there is not": ("auto", {"precision": "evil"}),
    "other bits than were asked for": ("4bit", {}),
    "a component elsewhere": ("auto", {"components": ["../vae"]}),
    "a thousand components": ("auto", {"components": ["a"] * 1000}),
    "a form that nobody knows": ("auto", {"there": "/forms/b"}),
    "a form of other bits": ("auto", {"there": "/forms/a", "quantization": "4bit"}),
    "a form of another precision": ("auto", {"there": "/forms/a", "precision": "float32"}),
}
"""The bits requested, and what is wrong in an answer of 8 bits and bfloat16."""

# --- log records ----------------------------------------------------------------------------


def names_of_loggers(count: int) -> list[frames.Event]:
    """Return records of ``count`` loggers, each with a valid name but an invalid level."""
    letters = {48 + digit: 97 + digit for digit in range(10)}
    return [frames.Log(level="evil", logger=f"l{n}x".translate(letters), msg="x") for n in range(count)]


def log_that_overwrites(msg: str, text: str = "a lighthouse") -> frames.Log:
    """Return a record whose fields collide with those of every record; ``msg`` and ``text`` hold the prompt."""
    evil = {"ts": "never", "msg": "other", "deep": DEEP, "text": text, "n": 7, "\n": "x"}
    return frames.Log(level="info", logger="engine", msg=msg, fields=evil)


# --- bytes that are no frames, and floods ----------------------------------------------------


def framed(body: bytes) -> bytes:
    """Return a frame of these bytes, whatever they are."""
    return len(body).to_bytes(4, "big") + body


class Pipe:
    """The engine's end of its pipe."""

    def raw(self, data: bytes) -> None:
        """Send raw bytes."""
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def body(self, data: bytes) -> None:
        """Send a frame with these bytes as its body."""
        self.raw(framed(data))

    def say(self, *events: frames.Event) -> None:
        """Send well-formed frames."""
        self.raw(b"".join(map(framing.encode, events)))


def _announces(pipe: Pipe, _: frames.JobSpec) -> None:
    pipe.raw((500_000_000).to_bytes(4, "big"))
    for _megabyte in range(300):
        pipe.raw(bytes(1_000_000))


def _sends_much(pipe: Pipe, spec: frames.JobSpec) -> None:
    pipe.say(image_of(spec, data=beginning_of_png(spec.width, spec.height) + bytes(20 << 20)))


def event_of_lists(count: int, of: str, /, **members: str) -> bytes:
    """Return an event of this many empty lists, each of which is a byte here and much more once decoded."""
    into = {"failed": "data", "log": "fields"}[of]
    lists = b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + bytes([0x90]) * count
    said = {"type": of, **dict.fromkeys(("message", "level", "logger", "msg"), "x"), **members}
    pairs = b"".join(msgspec.msgpack.encode(word) for pair in said.items() for word in pair)
    return bytes([0x80 + len(said) + 1]) + pairs + msgspec.msgpack.encode(into) + lists


BYTES: dict[str, Callable[[Pipe, frames.JobSpec], None]] = {
    "nested without end": lambda pipe, _: pipe.body(bytes([0x91]) * 200_000),
    "a member that nests without end": lambda pipe, _: pipe.body(
        b"\x82\xa4type\xa9heartbeat\xa1x" + bytes([0x91]) * 50_000
    ),
    "an extension for an event": lambda pipe, _: pipe.body(msgspec.msgpack.encode(msgspec.msgpack.Ext(3, b"x"))),
    "a member that is no text": lambda pipe, _: pipe.body(b"\x82\xa4type\xa6failed\xa3job\xa1\xff"),
    "an event of no known type": lambda pipe, _: pipe.body(msgspec.msgpack.encode({"type": "grant", "job": "x"})),
    "an event without its members": lambda pipe, _: pipe.body(msgspec.msgpack.encode({"type": "image"})),
    "a member that appears twice": lambda pipe, spec: pipe.body(
        b"\x84\xa4type\xa6failed\xa3job" + msgspec.msgpack.encode(spec.job) + b"\xa4kind\xa1x\xa4kind\xc0"
    ),
    "a failure of a million lists": lambda pipe, spec: pipe.body(
        event_of_lists(1_000_000, "failed", job=spec.job, kind="x")
    ),
    "an announced frame of 500 MB": _announces,
    "an image of 20 MB": _sends_much,
}


def _many(event: Callable[[frames.JobSpec], frames.Event], count: int) -> Callable[[Pipe, frames.JobSpec], None]:
    def flood(pipe: Pipe, spec: frames.JobSpec) -> None:
        data = framing.encode(event(spec)) * 1000
        for _ in range(count // 1000):
            pipe.raw(data)

    return flood


def _beat(spec: frames.JobSpec) -> frames.Event:
    return frames.Heartbeat(job=spec.job)


def _phase(spec: frames.JobSpec) -> frames.Event:
    return frames.PhaseStarted(job=spec.job, phase="denoising", image=1)


def _many_lists(pipe: Pipe, _: frames.JobSpec) -> None:
    body = event_of_lists(60_000, "log")
    for _frame in range(1000):
        pipe.body(body)


def _long_records(pipe: Pipe, spec: frames.JobSpec) -> None:
    """Return each with the prompt in a place that has to be checked."""
    letters = {48 + digit: 97 + digit for digit in range(10)}
    fields = {f"x{n}".translate(letters): ["y" * 3900, {"z": spec.prompt}, [spec.prompt]] for n in range(14)}
    fields |= {"a": [spec.prompt], "thesecretwishofauser": 1}
    pipe.say(*(frames.Log(level="info", logger="engine", msg="x", fields=fields) for _record in range(300)))


FLOODS: dict[str, Callable[[Pipe, frames.JobSpec], None]] = {
    "100,000 heartbeats": _many(_beat, 100_000),
    "100,000 phases": _many(_phase, 100_000),
    "100,000 steps": _many(step_of, 100_000),
    "100,000 log records": _many(lambda _: frames.Log(level="error", logger="engine", msg="x" * 3000), 100_000),
    "1,000 log records of 60,000 lists": _many_lists,
    "log records that are long to read": _long_records,
    "10,000 names of loggers": lambda pipe, _: pipe.say(*names_of_loggers(10_000)),
    "log fields that overwrite, with the prompt": lambda pipe, spec: pipe.say(
        log_that_overwrites(f"it draws {spec.prompt}", spec.prompt)
    ),
}
"""Each of these may be sent about a job, which then ends normally."""
