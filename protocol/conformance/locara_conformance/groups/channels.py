"""Channels: order, indexes without gaps, the end frame, readers that are slow or stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.lab import at, drawing, expect
from locara_conformance.outcomes import Failed

if TYPE_CHECKING:
    from locara_conformance.lab import Lab


def _calls(lab: Lab) -> str:
    """Make calls that succeed, fail, are refused and are cancelled, each with a channel; return which had no end."""
    peer, endless = lab.shared(), list[str]()
    for prompt, options in (("a lake", {"steps": 4}), ("fake:nan a lake", {}), ("a lake", {"width": 1})):
        call = peer.start("image.generate", drawing(prompt, **options), stream=True)
        call.answer(30)
        if not any(frame.get("end") is True for frame in call.frames()):
            endless.append(f"{prompt!r} {options}")
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    call.until("denoising", timeout=20)
    call.cancel()
    call.error("RequestCancelled")
    peer.barrier()
    return ", ".join(endless)


def _watched(id: str, clause: str) -> None:
    @check(id, clause, watched=True)
    def _(lab: Lab) -> None:
        _calls(lab)


_watched("channels.gapless", "CHAN-3")
_watched("channels.end-counts", "CHAN-3")
_watched("channels.end-once", "CHAN-4")
_watched("channels.silent", "CHAN-6")


@check("channels.end-first", "CHAN-5", watched=True)
def _end_first(lab: Lab) -> None:
    endless = _calls(lab)
    expect(not endless, f"no end frame before the answer to {endless}")


@check("channels.none", "CHAN-7")
def _none(lab: Lab) -> None:
    peer = lab.session()
    peer.start("image.generate", drawing(steps=3)).result(30)
    peer.barrier()
    told = [message for message in peer.inbox if "method" in message]
    expect(not told, f"{len(told)} notifications came without a channel")


@check("channels.tauri-string", "CHAN-1")
def _tauri(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing() | {"channel": "__CHANNEL__:4294967295"})
    call.channel = 4294967295
    call.result(30)
    expect(bool(call.messages()), "no messages came on the channel of a Tauri string")


@check("channels.busy", "CHAN-8")
def _busy(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    call.until("denoising", timeout=20)
    for channel in (call.channel, f"__CHANNEL__:{call.channel}", -1, 4294967296, 1.0, "7", True):
        error = peer.refused("InvalidParams", "image.generate", drawing() | {"channel": channel})
        expect(at(error, "data.path") == "$.channel", f"`data.path` is {at(error, 'data.path')!r}")
    call.cancel()
    call.error("RequestCancelled")


@check("channels.again", "CHAN-8")
def _again(lab: Lab) -> None:
    peer = lab.shared()
    for _ in range(2):
        call = peer.start("image.generate", drawing() | {"channel": 0})
        call.result(30)
        expect(bool(call.messages()), "no messages came on a channel that had been used before")


@check("channels.interleaved", "CHAN-10")
def _interleaved(lab: Lab) -> None:
    peer = lab.shared()
    calls = [peer.start("image.generate", drawing(steps=6), stream=True) for _ in range(3)]
    for call in calls:
        call.result(40)
        steps = [one.get("step") for one in call.messages() if one.get("phase") == "denoising" and one.get("step")]
        expect(steps == [1, 2, 3, 4, 5, 6], f"the steps reported on channel {call.channel} are {steps}")


@check("channels.small", "CHAN-11")
def _small(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("a very detailed lake", steps=8), stream=True)
    call.result(30)
    sizes = [event.size for event in peer.events if '"DiffusionStep"' in event.text[:80]]
    frames = call.frames()
    expect(bool(frames), "nothing came on the channel")
    largest = max(sizes[-len(frames) :], default=0)
    expect(largest < 8192 + 200, f"a frame takes {largest} bytes")


@check("channels.slow-reader", "CHAN-9 WIRE-9")
def _slow_reader(lab: Lab) -> None:
    peer = lab.session(env={"LOCARA_FAKE_STEP_MS": "2"})
    big = {"maxBytes": 40960, "mimeType": "image/png", "maxSide": 1024}
    params = drawing(steps=200, count=4, preview=big, width=128, height=128)  # far more than a pipe holds
    call = peer.start("image.generate", params, stream=True)
    call.until("denoising", timeout=20)
    peer.pause()
    time.sleep(2.5)
    peer.resume()
    call.result(60)
    told = call.messages()
    expect(at(told, "-1.progress") == 1, "the last message before the end does not have the progress 1")
    expect(len(told) < 800, f"{len(told)} messages of 800 steps were kept for a host that did not read")


@check("channels.stopped-reader", "CHAN-9 WIRE-9")
def _stopped_reader(lab: Lab) -> None:
    peer = lab.session(env={"LOCARA_FAKE_STEP_MS": "1"})
    folder = lab.folder()
    peer.pause()
    output = {"mode": "save", "path": "stopped.png"}
    call = peer.start("image.generate", drawing(steps=200, count=3, output=output), stream=True)
    until = time.monotonic() + 30
    while not (folder / "stopped-3.png").exists():
        if time.monotonic() > until:
            raise Failed("a host that does not read stops the job")
        time.sleep(0.05)
    peer.resume()
    call.result(20)


@check("channels.attach", "JOB-5 JOB-6 LIFE-21")
def _attach(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=200 a lake", steps=12), stream=True)
    job = at(call.until("denoising", step=2, timeout=20), "jobId", str)
    attached = peer.start("jobs.attach", {"jobId": job}, stream=True)
    attached.result()
    before = call.frames()
    expect(before[-1].get("end") is True, "the channel before had no end frame when jobs.attach was answered")
    call.result(30)
    after = attached.frames(call)
    expect(any(frame.get("end") is True for frame in after), "the new channel had no end frame before the job's answer")
    expect(after[0].get("index") == 0, "the new channel's index does not start at 0")
    expect(at(after[0], "message.step", int) >= 2, "its first message is not the job's last one")
