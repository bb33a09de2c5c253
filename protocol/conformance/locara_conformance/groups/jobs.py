"""Jobs: after a reload, a web view finds its job, its further messages, and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_conformance.cases import shorten
from locara_conformance.checks import check
from locara_conformance.lab import at, drawing, expect
from locara_conformance.outcomes import Failed

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer


def _job(peer: Peer, id: str) -> dict[str, Any]:
    """Return the job's entry in ``jobs.list``."""
    for one in at(peer.call("jobs.list"), "jobs", list):
        if at(one, "jobId") == id:
            return one
    raise Failed(f"jobs.list does not show {id}")


@check("jobs.list", "JOB-1 LIFE-20")
def _list(lab: Lab) -> None:
    peer = lab.session()
    done = [peer.start("image.generate", drawing(), stream=True) for _ in range(2)]
    ended = [at(call.result(30), "jobId") for call in done]
    running = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    first = at(running.until("denoising", step=0, timeout=20), "jobId", str)
    waiting = peer.start("image.generate", drawing(), stream=True)
    second = at(waiting.until("queued"), "jobId", str)
    jobs = at(peer.call("jobs.list"), "jobs", list)
    told = [(at(one, "jobId"), at(one, "state")) for one in jobs]
    due = [(first, "running"), (second, "queued"), (ended[1], "done"), (ended[0], "done")]
    expect(told == due, f"jobs.list shows {told}, not {due}")
    expect(at(jobs[0], "requestId") == running.id, "`requestId` is not the call's")
    expect(at(jobs[0], "channel") == running.channel, "`channel` is not where the messages go")
    for call in (waiting, running):
        call.cancel()
        call.error("RequestCancelled")
    expect(at(_job(peer, first), "state") == "cancelled", "a cancelled job is not shown as cancelled")
    failed = peer.start("image.generate", drawing("fake:nan a lake"), stream=True)
    failed.error("InvalidOutput", 30)
    job = at(failed.messages(), "0.jobId", str)
    expect(at(_job(peer, job), "state") == "failed", "a failed job is not shown as failed")


@check("jobs.last", "JOB-2")
def _last(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=150 a lake", steps=30), stream=True)
    job = at(call.until("denoising", step=2, timeout=20), "jobId", str)
    last = at(_job(peer, job), "last", dict)
    expect(at(last, "step", int) >= 2, f"`last` reports step {at(last, 'step')}, the channel of two finished ones")
    expect("preview" in last, "`last` has no preview")
    call.cancel()
    call.error("RequestCancelled")


@check("jobs.picture", "JOB-13")
def _picture(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("a lake at dawn"), stream=True)
    drawn = at(call.result(30), "images.0", dict)
    listed = _job(peer, at(call.messages(), "0.jobId", str))
    told = {name: at(listed, name) for name in ("prompt", "width", "height")}
    asked = {"prompt": "a lake at dawn", "width": at(drawn, "width"), "height": at(drawn, "height")}
    expect(told == asked, f"the job is listed with {shorten(told)} instead of {shorten(asked)}")


@check("jobs.never-one", "JOB-4")
def _never(lab: Lab) -> None:
    peer = lab.session()
    peer.refused("InvalidParams", "image.generate", drawing(width=1))
    peer.refused("CapabilityDenied", "image.generate", drawing(model="sd3.5-medium"))
    expect(at(peer.call("jobs.list"), "jobs") == [], "a call that was refused is listed")


@check("jobs.result", "JOB-10 LIFE-6")
def _result(lab: Lab) -> None:
    peer = lab.shared()
    for prompt, member in (("a lake", "result"), ("fake:nan a lake", "error")):
        call = peer.start("image.generate", drawing(prompt), stream=True)
        own = at(call.answer(30), member)
        again = at(peer.start("jobs.result", {"jobId": at(call.messages(), "0.jobId", str)}).answer(), member)
        expect(own == again, f"jobs.result gives {shorten(again)} instead of {shorten(own)}")


@check("jobs.result-early", "JOB-11")
def _early(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    job = at(call.until("denoising", timeout=20), "jobId", str)
    peer.refused("InvalidRequest", "jobs.result", {"jobId": job})
    call.cancel()
    call.error("RequestCancelled")
    peer.refused("RequestCancelled", "jobs.result", {"jobId": job})


@check("jobs.unknown", "JOB-12")
def _unknown(lab: Lab) -> None:
    peer = lab.shared()
    for method, params in (("jobs.result", {"jobId": "nobody"}), ("jobs.attach", {"jobId": "nobody", "channel": 77})):
        error = peer.refused("InvalidParams", method, params)
        expect(at(error, "data.path") == "$.jobId", f"`data.path` of {method} is {at(error, 'data.path')!r}")


@check("jobs.attach-ended", "JOB-7")
def _ended(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing(), stream=True)
    job = at(call.result(30), "jobId", str)
    for _ in range(2):
        attached = peer.start("jobs.attach", {"jobId": job}, stream=True)
        expect(at(attached.result(), "state") == "done", "`state` does not say that the job is done")
        frames = attached.frames()
        expect([("end" in one) for one in frames] == [False, True], f"{len(frames)} frames came instead of two")
        expect(at(frames[0], "message.progress") == 1, "the message is not the job's last one")


@check("jobs.attach-busy", "JOB-8 JOB-9")
def _busy(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    job = at(call.until("denoising", timeout=20), "jobId", str)
    error = peer.refused("InvalidParams", "jobs.attach", {"jobId": job, "channel": call.channel})
    expect(at(error, "data.path") == "$.channel", f"`data.path` is {at(error, 'data.path')!r}")
    call.cancel()
    call.error("RequestCancelled")
    expect(at(call.frames(), "-1").get("end") is True, "the refused attach took the job's channel away")


@check("jobs.at-most", "JOB-3")
def _at_most(lab: Lab) -> None:
    peer = lab.session(env={"LOCARA_FAKE_STEP_MS": "0", "LOCARA_FAKE_DECODE_MS": "0"})
    ended = [at(peer.call("image.generate", drawing(steps=1), timeout=30), "jobId") for _ in range(34)]
    told = [at(one, "jobId") for one in at(peer.call("jobs.list"), "jobs", list)]
    expect(told == ended[:-33:-1], f"of 34 jobs that have ended, {len(told)} are shown, not the latest 32")
