"""Cancelling: in every phase and spelling, always answered, never another job."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from locara_conformance.checks import check
from locara_conformance.lab import at, busy, drawing, expect
from locara_conformance.outcomes import Late

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Call

PHASES = {
    "queued": {},
    "loading": {"LOCARA_FAKE_LOAD_MS": "20000"},
    "encoding": {"LOCARA_FAKE_ENCODE_MS": "20000"},
    "denoising": {"LOCARA_FAKE_STEP_MS": "20000"},
    "decoding": {"LOCARA_FAKE_DECODE_MS": "20000"},
}
"""The fake engine's settings that make each phase last."""
SPELLINGS = ("$/cancelRequest", "$/cancel_request", "notifications/cancelled", "image.cancel")


def _cancelled(call: Call) -> dict[str, Any]:
    """Cancel, and return the error; late after 2 s plus the allowance for a shared machine."""
    began = time.monotonic()
    call.cancel()
    error = call.error("RequestCancelled")
    expect(isinstance(at(error, "data.images"), list), "`data.images` is not an array")
    if (took := time.monotonic() - began) > 2.5:
        raise Late(f"the cancel was answered after {took:.1f} s")
    return error


def _phase(phase: str) -> None:
    def run(lab: Lab) -> None:
        peer = lab.session(env=PHASES[phase])
        first = busy(peer) if phase == "queued" else None
        call = peer.start("image.generate", drawing(output={"mode": "save"}), stream=True)
        call.until(phase, timeout=20)
        error = _cancelled(call)
        expect(at(error, "data.images") == [], "an unfinished image is reported")
        expect(not list(lab.folder().iterdir()), "a file was left behind")
        if first is not None:
            _cancelled(first)
            peer.call("image.generate", drawing(), timeout=30)

    check(f"cancel.{phase}", "CANCEL-1")(run)


for _name in PHASES:
    _phase(_name)


@check("cancel.saving", "CANCEL-1 CANCEL-2")
def _saving(lab: Lab) -> None:
    peer, folder = lab.shared(), lab.folder()
    for number in range(5):
        output = {"mode": "save", "path": f"{number}.png"}
        call = peer.start("image.generate", drawing(output=output), stream=True)
        call.until("saving", timeout=20)
        call.cancel()
        if "result" not in call.answer():  # it may have come too late
            expect(at(call.error("RequestCancelled"), "data.images") == [], "an unfinished image is reported")
        saved, there = "result" in call.answer(), (folder / f"{number}.png").exists()
        expect(
            saved is there,
            f"a call that was cancelled while it saved {'succeeded' if saved else 'did not'}, "
            f"and its file {'is' if there else 'is not'} there",
        )
        expect(len(list(folder.iterdir())) <= number + 1, "more was left behind than the pictures")


@check("cancel.spellings", "CANCEL-1 LIFE-22")
def _spellings(lab: Lab) -> None:
    peer = lab.shared()
    for spelling in SPELLINGS:
        call = busy(peer)
        if spelling == "image.cancel":
            answer = peer.call(spelling, {"jobId": at(call.messages(), "0.jobId", str)})
            expect(answer == {"cancelled": True}, f"image.cancel of a running job answered {answer}")
        else:
            peer.notify(spelling, {"requestId" if spelling.startswith("n") else "id": call.id})
        call.error("RequestCancelled")


@check("cancel.next-line", "WIRE-6")
def _next_line(lab: Lab) -> None:
    peer = lab.shared()
    for _ in range(10):
        call = peer.start("image.generate", drawing("fake:slow=500 a lake", steps=50), stream=True)
        call.cancel()
        call.error("RequestCancelled")


@check("cancel.hung-engine", "FAKE-3")
def _hung(lab: Lab) -> None:
    peer = lab.session()
    call = peer.start("image.generate", drawing("fake:hang=denoising a lake", steps=3), stream=True)
    call.until("denoising", timeout=20)
    time.sleep(0.1)
    _cancelled(call)
    peer.call("image.generate", drawing(), timeout=30)


@check("cancel.finished-images", "CANCEL-2 ERR-8")
def _finished(lab: Lab) -> None:
    peer, folder = lab.shared(), lab.folder()
    call = peer.start("image.generate", drawing("fake:slow=100 a lake", count=8, output={"mode": "save"}), stream=True)
    call.until("denoising", image=3, timeout=20)
    images = at(_cancelled(call), "data.images", list)
    expect(1 <= len(images) < 8, f"{len(images)} images are reported although the third of eight was being drawn")
    there, told = sorted(path.name for path in folder.iterdir()), sorted(at(one, "relativePath", str) for one in images)
    expect(there == told, f"the files are {there}, the error reports {told}")


@check("cancel.of-nothing", "CANCEL-3")
def _nothing(lab: Lab) -> None:
    peer = lab.shared()
    done = peer.start("image.generate", drawing(), stream=True)
    job = at(done.result(30), "jobId", str)
    expect(peer.call("image.cancel", {"jobId": job}) == {"cancelled": False}, "a finished job was told to stop")
    running = peer.start("image.generate", drawing("fake:slow=50 a lake", steps=8), stream=True)
    running.until("denoising", timeout=20)
    done.cancel()
    for id in (str(running.id), 10**9, "nobody"):
        peer.notify("$/cancelRequest", {"id": id})
    expect(peer.call("image.cancel", {"jobId": "nobody"}) == {"cancelled": False}, "an unknown job was told to stop")
    running.result(30)


@check("cancel.neighbour", "CANCEL-3")
def _neighbour(lab: Lab) -> None:
    peer = lab.shared()
    first = busy(peer)
    waiting = [peer.start("image.generate", drawing(), stream=True) for _ in range(3)]
    waiting[1].cancel()
    waiting[1].error("RequestCancelled")
    peer.barrier()
    expect(not first.answered(), "cancelling a waiting job ended the running one")
    first.cancel()
    first.error("RequestCancelled")
    for call in (waiting[0], waiting[2]):
        call.result(30)


@check("cancel.answered", "CANCEL-2 HOST-9")
def _answered(lab: Lab) -> None:
    peer = lab.shared()
    calls = [peer.start("image.generate", drawing("fake:slow=300 a lake", steps=20), stream=True) for _ in range(8)]
    for call in calls:
        call.cancel()
    for call in calls:
        call.error("RequestCancelled")
