"""What answers report besides the picture: each member means what the page says, beyond having its type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from locara_conformance.cases import shorten
from locara_conformance.checks import check
from locara_conformance.lab import at, decoded, drawing, expect, manifest
from locara_protocol.methods import NOTIFICATIONS

if TYPE_CHECKING:
    from locara_conformance.lab import Lab

PHASES = ["queued", "loading", "encoding", "denoising", "decoding", "saving"]
FORMATS = {"image/png", "image/jpeg", "image/webp"}
RESOLVED = {
    "model negativePrompt width height steps guidance seed count scheduler speed quantization precision tiling engine "
    "preview output": "",
    "mode everySteps maxSide maxBytes mimeType": ".preview",
    "mode root onConflict mimeType quality metadata": ".output",
}
"""The options that ``parameters`` has as they were resolved; all but those that have no value unless they are given."""


@check("lifecycle.told", "LIFE-10")
def _told(lab: Lab) -> None:
    told = lab.spawn().call("initialize", lab.opening(), timeout=20)
    for name in ("name", "version"):
        expect(bool(at(told, f"serverInfo.{name}", str)), f"`serverInfo.{name}` is empty")
    names = cast("list[Any]", at(told, "capabilities.notifications", list))
    missing = sorted(name for name in NOTIFICATIONS if name not in names)
    expect(not missing, f"`capabilities.notifications` lacks {', '.join(missing)}")
    expect(bool(at(told, "capabilities.engines", list)), "`capabilities.engines` is empty")
    made = cast("list[Any]", at(told, "capabilities.imageFormats", list))
    expect({one for one in made if isinstance(one, str)} >= FORMATS, f"`capabilities.imageFormats` is {made}")


@check("lifecycle.ping-counts", "LIFE-4")
def _counts(lab: Lab) -> None:
    peer = lab.shared()
    first = at(peer.call("ping"), "uptimeMs", int)
    running = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    running.until("denoising", timeout=20)
    waiting = [peer.start("image.generate", drawing()) for _ in range(2)]
    pong = peer.call("ping")
    counts = (at(pong, "jobs.running"), at(pong, "jobs.queued"))
    expect(counts == (1, 2), f"with one job running and two waiting, {counts[0]} run and {counts[1]} wait")
    expect(at(pong, "uptimeMs", int) > first, f"`uptimeMs` is {at(pong, 'uptimeMs')} after {first}")
    for call in (*waiting, running):
        call.cancel()
        call.error("RequestCancelled")


@check("lifecycle.openrpc", "LIFE-5")
def _openrpc(lab: Lab) -> None:
    document = lab.shared().call("rpc.discover")
    expect(at(document, "openrpc", str).startswith("1."), f"`openrpc` is {at(document, 'openrpc')!r}")
    expect(bool(at(document, "info.title", str)), "`info.title` is empty")
    expect(at(document, "info.version", str).startswith("1."), f"`info.version` is {at(document, 'info.version')!r}")
    for method in at(document, "methods", list):
        name = at(method, "name", str)
        params = {at(one, "name", str) for one in at(method, "params", list)}
        expect(isinstance(at(method, "result", dict).get("schema"), dict), f"the result of {name} has no schema")
        if name == "image.generate":
            expect({"prompt", "options", "channel"} <= params, f"the params of {name} are {sorted(params)}")


@check("generate.all-phases", "GEN-11")
def _all_phases(lab: Lab) -> None:
    call = lab.session().start("image.generate", drawing(), stream=True)
    call.result(30)
    phases = list(dict.fromkeys(at(one, "phase", str) for one in call.messages()))
    expect(phases == PHASES, f"the first job of a process reported the phases {phases}")


@check("generate.elapsed", "GEN-10")
def _elapsed(lab: Lab) -> None:
    call = lab.shared().start("image.generate", drawing("fake:slow=100 a lake", steps=4), stream=True)
    call.result(30)
    told = [at(one, "elapsedMs", int) for one in call.messages()]
    expect(told == sorted(told), f"`elapsedMs` falls: {told}")
    expect(bool(told) and told[-1] - told[0] >= 400, f"four steps of 100 ms took {told} by `elapsedMs`")


@check("generate.timings", "GEN-14")
def _timings(lab: Lab) -> None:
    result = lab.shared().call("image.generate", drawing("fake:slow=100 a lake", steps=4), timeout=30)
    timings = at(result, "timings", dict)
    steps, whole = at(timings, "denoiseMs", int), at(timings, "totalMs", int)
    expect(steps >= 400, f"four steps of 100 ms took {steps} by `denoiseMs`")
    expect(whole >= steps, f"`totalMs` is {whole}, with {steps} of `denoiseMs` in it")


@check("generate.resolved", "GEN-14")
def _resolved(lab: Lab) -> None:
    params = {"prompt": "a lake", "options": {"steps": 1, "output": {"mode": "save"}}}
    result = lab.shared().call("image.generate", params, timeout=30)
    expect(at(result, "parameters.prompt") == "a lake", "`parameters` does not have the prompt")
    for names, place in RESOLVED.items():
        told = at(result, f"parameters.options{place}", dict)
        missing = sorted(name for name in names.split() if told.get(name) is None)
        expect(not missing, f"`parameters.options{place}` lacks {', '.join(missing)}")


@check("generate.preview-bytes", "GEN-20")
def _preview_bytes(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": manifest("sd3.5-medium")})

    def sizes(most: int) -> list[int]:
        preview = {"mode": "linear", "maxSide": 1024, "maxBytes": most, "mimeType": "image/png"}
        params = drawing(model="sd3.5-medium", width=1024, height=1024, preview=preview)
        call = peer.start("image.generate", params, stream=True)
        call.result(40)
        return [len(decoded(one, "preview.data")) for one in call.messages() if "preview" in one]

    free, bound = sizes(40960), sizes(512)
    expect(max(free, default=0) > 512, f"previews take {free} bytes where they may have 40960: nothing to keep down")
    expect(max(bound, default=0) <= 512, f"with `preview.maxBytes` 512 previews take {bound} bytes")


@check("generate.output-modes", "GEN-21")
def _modes(lab: Lab) -> None:
    peer, folder = lab.shared(), lab.folder()
    before = set(folder.iterdir())
    image = at(peer.call("image.generate", drawing(output={"mode": "inline"}), timeout=30), "images.0", dict)
    expect(set(folder.iterdir()) == before, "`output.mode` inline wrote a file")
    expect("data" in image and "path" not in image, f"inline, an image is reported with {shorten(sorted(image))}")
    image = at(peer.call("image.generate", drawing(output={"mode": "save"}), timeout=30), "images.0", dict)
    expect("path" in image and "data" not in image, f"saved, an image is reported with {shorten(sorted(image))}")


@check("generate.each-image", "GEN-3")
def _each(lab: Lab) -> None:
    peer, plain = lab.shared(), {"mode": "inline", "metadata": "none"}
    both = peer.call("image.generate", drawing(seed=41, count=2, output=plain), timeout=30)
    alone = peer.call("image.generate", drawing(seed=42, output=plain), timeout=30)
    expect(at(both, "images.0.sha256") != at(both, "images.1.sha256"), "two images of one call are the same")
    expect(at(both, "images.1.sha256") == at(alone, "images.0.sha256"), "image 2 is not what its seed alone makes")


@check("jobs.attach-first", "JOB-5")
def _attach_first(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=200 a lake", steps=30), stream=True)
    job = at(call.until("denoising", step=2, timeout=20), "jobId", str)
    attached = peer.start("jobs.attach", {"jobId": job}, stream=True)
    expect(at(attached.result(), "state") == "running", "`state` does not say that the job runs")
    peer.wait("message on the new channel", lambda one: _is_on(one, attached.channel))
    expect("preview" in attached.messages()[0], "the first message of a job that was attached has no preview")
    used = drawing("fake:slow=20000 a lake") | {"channel": call.channel}
    again = peer.start("image.generate", used)
    again.until("queued")  # the number that the job had is free
    for one in (again, call):
        one.cancel()
        one.error("RequestCancelled")


def _is_on(message: Any, channel: Any) -> bool:
    params = cast("dict[str, Any]", message).get("params") if isinstance(message, dict) else None
    return isinstance(params, dict) and cast("dict[str, Any]", params).get("channel") == channel


@check("jobs.attach-states", "JOB-7")
def _attach_states(lab: Lab) -> None:
    peer = lab.shared()
    failed = peer.start("image.generate", drawing("fake:nan a lake"), stream=True)
    failed.error("InvalidOutput", 30)
    cancelled = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    cancelled.until("denoising", timeout=20)
    cancelled.cancel()
    cancelled.error("RequestCancelled")
    for call, state in ((failed, "failed"), (cancelled, "cancelled")):
        attached = peer.start("jobs.attach", {"jobId": at(call.messages(), "0.jobId", str)}, stream=True)
        told = at(attached.result(), "state")
        expect(told == state, f"`state` of a job that was {state} is {told!r}")


@check("cancel.waiting-job", "LIFE-22")
def _waiting(lab: Lab) -> None:
    peer = lab.shared()
    running = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    running.until("denoising", timeout=20)
    waiting = peer.start("image.generate", drawing(), stream=True)
    job = at(waiting.until("queued"), "jobId", str)
    answer = peer.call("image.cancel", {"jobId": job})
    expect(answer == {"cancelled": True}, f"image.cancel of a waiting job answered {answer}")
    for call in (waiting, running):
        call.cancel()
        call.error("RequestCancelled")


@check("audit.entries", "CAP-11")
def _entries(lab: Lab) -> None:
    peer = lab.session()
    denied = peer.start("models.get", {"model": "sd3.5-medium"})
    denied.error("CapabilityDenied")
    peer.call("image.generate", drawing(), timeout=30)
    entries = at(peer.call("audit.capabilityLog"), "entries", list)
    mine = [one for one in entries if at(one, "requestId") == denied.id]
    expect(len(mine) == 1, f"{len(mine)} entries record one denial")
    told = {name: at(mine[0], name) for name in ("capability", "resource", "decision", "reason")}
    due = {"capability": "models", "resource": "sd3.5-medium", "decision": "deny", "reason": "notDeclared"}
    expect(told == due, f"a denial is recorded as {shorten(told)}, not as {shorten(due)}")
    times = [at(one, "time", str) for one in entries]
    expect(times == sorted(times), f"the times fall: {times}")
    latest = at(peer.call("audit.capabilityLog", {"limit": 1}), "entries", list)
    expect([at(one, "seq") for one in latest] == [len(entries)], f"the latest entry is {shorten(latest)}")


@check("models.progress-rate", "MOD-3")
def _rate(lab: Lab) -> None:
    peer = lab.session(env={"LOCARA_FAKE_LOAD_MS": "1000"})
    call = peer.start("models.load", {"model": "pocket"}, stream=True)
    call.result(30)
    count = len(call.messages())
    expect(count >= 2, f"{count} messages reported a model's loading")
    lines = [event for event in peer.events if event.way == "←" and '"ModelProgress"' in event.text[:80]]
    seconds = lines[-1].seconds - lines[0].seconds
    most = 10 * seconds + 6  # one more for each phase, and what a busy machine holds back
    expect(count <= most, f"{count} messages within {seconds:.1f} s")
