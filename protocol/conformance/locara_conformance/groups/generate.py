"""``image.generate``: its messages, its result, its options and its refusals."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_conformance.cases import shorten
from locara_conformance.checks import check
from locara_conformance.lab import PROMPT, at, content, decoded, drawing, expect, manifest
from locara_conformance.raster import chunks, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locara_conformance.lab import Lab
    from locara_conformance.peer import Call

PHASES = ("queued", "loading", "encoding", "denoising", "decoding", "saving")
NAMES_REFUSED = (
    *("con.png", "a/nul.png", "a:b.png", "a\\b.png", "a//b.png", "a/.b.png", "a./b.png", "a /b.png"),
    *("a\nb.png", "a\u202eb.png", "a\uff0fb.png", f"{'a' * 256}.png", f"{'a/' * 32}b.png"),
)
MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/webp": b"RIFF"}


def _drawn(lab: Lab, **options: Any) -> tuple[Call, dict[str, Any]]:
    call = lab.shared().start("image.generate", drawing(**options), stream=True)
    return call, call.result(30)


def _bytes(image: Any) -> bytes:
    """Return the file of an image in a result: its data, or the file at its path."""
    if isinstance(image, dict) and "data" in image:
        return decoded(image, "data")
    return content(Path(at(image, "path", str)))


def _number(message: Any, name: str) -> float:
    told = at(message, name)
    return told if isinstance(told, float) else at(message, name, int)


@check("generate.phases", "GEN-11")
def _phases(lab: Lab) -> None:
    call, _ = _drawn(lab, steps=7)
    told = call.messages()
    phases = list(dict.fromkeys(at(one, "phase", str) for one in told))
    expect(phases == [one for one in PHASES if one in phases], f"the phases came in the order {phases}")
    lacking = {"denoising", "decoding", "saving"} - set(phases)
    expect(not lacking, f"no message reported {', '.join(sorted(lacking))}")
    steps = [at(one, "step") for one in told if at(one, "phase") == "denoising" and at(one, "step")]
    expect(steps == list(range(1, 8)), f"the finished steps that were reported are {steps}, not 1 to 7")
    expect(all(at(one, "steps") == 7 for one in told), "`steps` is not what will run")


@check("generate.progress", "GEN-10")
def _progress(lab: Lab) -> None:
    call, _ = _drawn(lab, count=2, steps=3)
    told = [_number(one, "progress") for one in call.messages()]
    expect(all(0 <= one <= 1 for one in told), f"a progress outside 0 to 1 among {told}")
    expect(told == sorted(told), f"the progress falls: {told}")


@check("generate.progress-end", "GEN-12")
def _progress_end(lab: Lab) -> None:
    call, _ = _drawn(lab, count=2, steps=3)
    told = [_number(one, "progress") for one in call.messages()]
    expect(bool(told), "a call with a channel reported nothing")
    expect(
        told[-1] == 1 and told.count(1) == 1, f"the progress is 1 in {told.count(1)} messages, the last is {told[-1]}"
    )


@check("generate.images", "GEN-10 GEN-16")
def _images(lab: Lab) -> None:
    call, result = _drawn(lab, count=3)
    images = at(result, "images", list)
    expect(len(images) == 3, f"{len(images)} images came instead of 3")
    told = [at(one, "image", int) for one in call.messages()]
    expect(sorted(set(told)) == [1, 2, 3], f"the messages report the images {told}")
    seeds = [at(one, "seed") for one in images]
    expect(seeds == [1, 2, 3], f"the seeds of three images from seed 1 are {seeds}")


@check("generate.job-id", "GEN-10")
def _job_id(lab: Lab) -> None:
    call, result = _drawn(lab)
    told, job = {at(one, "jobId", str) for one in call.messages()}, at(result, "jobId", str)
    expect(told == {job}, f"the messages report {sorted(told)}, the result reports {job}")


@check("generate.previews", "GEN-13 GEN-4 GEN-19")
def _previews(lab: Lab) -> None:
    call, _ = _drawn(lab, steps=4, preview={"mode": "auto", "maxSide": 32, "mimeType": "image/png"})
    told = [one for one in call.messages() if "preview" in one]
    expect(bool(told), "no message had a preview")
    expect(any(at(one, "step") == 1 for one in told), "the first step had none")
    for one in told:
        preview = at(one, "preview", dict)
        data = _bytes(preview)
        expect(data.startswith(MAGIC["image/png"]), "a preview is not of the requested type")
        told_size = (at(preview, "width", int), at(preview, "height", int))
        expect(size(data) == told_size, f"a preview of {size(data)} is reported as {told_size}")
        expect(max(told_size) <= 32, f"a preview has {max(told_size)} pixels per side with `maxSide` 32")


@check("generate.previews-off", "GEN-13")
def _previews_off(lab: Lab) -> None:
    call, without = _drawn(lab, steps=4, preview={"mode": "off"})
    expect(not any("preview" in one for one in call.messages()), "a preview came with the mode off")
    _, given = _drawn(lab, steps=4, preview={"mode": "linear"})
    expect(at(without, "images.0.sha256") == at(given, "images.0.sha256"), "the picture differs with previews")


@check("generate.reproduces", "GEN-14")
def _reproduces(lab: Lab) -> None:
    options = {"model": "pocket", "steps": 3, "output": {"mode": "inline"}}
    prompt = f" {PROMPT},  Größe 東京 🎨\u2028\t"
    first = lab.shared().call("image.generate", {"prompt": prompt, "options": options}, timeout=30)
    told = at(first, "parameters.prompt")
    expect(told == prompt, f"the prompt {prompt!r} is reported as {told!r}")
    again = lab.session().start_any("image.generate", at(first, "parameters", dict)).result(30)
    expect(at(first, "images.0.sha256") == at(again, "images.0.sha256"), "`parameters` sent again change the picture")


@check("generate.seed", "GEN-3")
def _seed(lab: Lab) -> None:
    results = [
        lab.shared().call(
            "image.generate", {"prompt": PROMPT, "options": {"steps": 1, "output": {"mode": "inline"}}}, timeout=30
        )
        for _ in range(3)
    ]
    seeds = [at(one, "images.0.seed", int) for one in results]
    expect(len(set(seeds)) > 1, f"three calls without a seed had the seeds {seeds}")
    for one in results:
        expect(at(one, "parameters.options.seed") == at(one, "images.0.seed"), "`parameters` has a different seed")


@check("generate.file", "GEN-14 GEN-21")
def _file(lab: Lab) -> None:
    folder = lab.folder()
    _, result = _drawn(lab, output={"mode": "both", "path": "sub/a.png"})
    image = at(result, "images.0", dict)
    path = Path(at(image, "path", str))
    expect(path.is_absolute(), f"the path {path} is not absolute")
    expect(path.resolve() == (folder / "sub" / "a.png").resolve(), f"the path is {path}")
    expect(
        at(image, "relativePath") == "sub/a.png" and at(image, "root") == "user-folder", "root or relativePath is wrong"
    )
    data = content(path)
    expect(data == _bytes(image), "the file and `data` differ")
    expect(hashlib.sha256(data).hexdigest() == at(image, "sha256"), "`sha256` is not the file's")
    expect(len(data) == at(image, "bytes"), "`bytes` is not the file's length")
    expect(size(data) == (at(image, "width"), at(image, "height")), "width and height are not the file's")


@check("generate.formats", "GEN-6")
def _formats(lab: Lab) -> None:
    for kind, magic in MAGIC.items():
        _, result = _drawn(lab, output={"mode": "inline", "mimeType": kind})
        expect(_bytes(at(result, "images.0")).startswith(magic), f"{kind} was requested and a different type came")
    wrong = drawing(output={"path": "a.jpg", "mimeType": "image/png"})
    error = lab.shared().refused("InvalidParams", "image.generate", wrong)
    expect(at(error, "data.path") == "$.options.output.path", f"`data.path` is {at(error, 'data.path')!r}")


@check("generate.conflict", "GEN-5 ERR-22")
def _conflict(lab: Lab) -> None:
    def save(seed: int, on: str) -> dict[str, Any]:
        return drawing(seed=seed, output={"path": "same.png", "onConflict": on})

    peer, folder = lab.shared(), lab.folder()
    peer.call("image.generate", save(1, "error"), timeout=30)
    first = content(folder / "same.png")
    error = peer.refused("StorageError", "image.generate", save(2, "error"))
    expect(at(error, "data.errno") == "EEXIST", f"`data.errno` is {at(error, 'data.errno')!r}")
    other = at(peer.call("image.generate", save(2, "rename"), timeout=30), "images.0.relativePath", str)
    expect(other != "same.png" and (folder / other).exists(), f"renaming saved it as {other}")
    expect(content(folder / "same.png") == first, "a file was replaced that should have been kept")
    peer.call("image.generate", save(2, "overwrite"), timeout=30)
    expect(content(folder / "same.png") != first, "overwriting left the old file")


@check("generate.outside", "CAP-6")
def _outside(lab: Lab) -> None:
    peer, folder = lab.shared(), lab.folder()
    for path in ("../outside.png", "/tmp/outside.png", "sub/../../outside.png", "..", "a\u0000.png"):
        answer = peer.start_any("image.generate", drawing(output={"path": path})).answer(30)
        expect("error" in answer, f"the path {path!r} was accepted: {shorten(answer.get('result'))}")
    with contextlib.suppress(OSError, NotImplementedError):  # where no links can be made, it is a folder like others
        (folder / "link").symlink_to(folder.parent, target_is_directory=True)
    peer.start_any("image.generate", drawing(output={"path": "link/outside.png"})).answer(30)
    expect(not (folder.parent / "outside.png").exists(), "a file was written outside of the root")


REFUSED: Sequence[tuple[str, dict[str, Any], str]] = (
    ("an empty prompt", {"prompt": "  "}, "$.prompt"),
    ("a prompt over the limit", {"prompt": "x" * 16385}, "$.prompt"),
    ("no steps", {"prompt": "a", "options": {"steps": 0}}, "$.options.steps"),
    ("201 steps", {"prompt": "a", "options": {"steps": 201}}, "$.options.steps"),
    ("a negative guidance", {"prompt": "a", "options": {"guidance": -1}}, "$.options.guidance"),
    ("a seed beyond 32 bits", {"prompt": "a", "options": {"seed": 4294967296}}, "$.options.seed"),
    ("17 images", {"prompt": "a", "options": {"count": 17}}, "$.options.count"),
    ("an unknown scheduler", {"prompt": "a", "options": {"scheduler": "none such"}}, "$.options.scheduler"),
    ("an unknown speed", {"prompt": "a", "options": {"speed": "warp"}}, "$.options.speed"),
    ("an unknown quantization", {"prompt": "a", "options": {"quantization": "2bit"}}, "$.options.quantization"),
    ("an unknown preview mode", {"prompt": "a", "options": {"preview": {"mode": "x"}}}, "$.options.preview.mode"),
    ("previews of no bytes", {"prompt": "a", "options": {"preview": {"maxBytes": 1}}}, "$.options.preview.maxBytes"),
    ("quality 0", {"prompt": "a", "options": {"output": {"quality": 0}}}, "$.options.output.quality"),
    (
        "a kind that is not made",
        {"prompt": "a", "options": {"output": {"mimeType": "image/gif"}}},
        "$.options.output.mimeType",
    ),
)


@check("generate.refusals", "ERR-6 GEN-1")
def _refusals(lab: Lab) -> None:
    peer = lab.shared()
    for what, params, path in REFUSED:
        error = peer.refused("InvalidParams", "image.generate", params)
        expect(at(error, "data.path") == path, f"{what}: `data.path` is {at(error, 'data.path')!r}, not {path}")


@check("generate.last-seed", "GEN-3")
def _last_seed(lab: Lab) -> None:
    peer = lab.shared()
    peer.call("image.generate", drawing(seed=4294967295), timeout=30)
    peer.refused("InvalidParams", "image.generate", drawing(seed=4294967295, count=2))


@check("generate.sizes", "GEN-2")
def _sizes(lab: Lab) -> None:
    peer = lab.shared()
    limits = at(peer.call("models.get", {"model": "pocket"}), "limits")
    grid, most, least = (at(limits, name, int) for name in ("multipleOf", "maximum", "minimum"))
    expect(grid > 0, f"`multipleOf` is {grid}")
    error = peer.refused("InvalidParams", "image.generate", drawing(width=least + grid // 2 + 1))
    expect(at(error, "data.path") == "$.options.width", f"`data.path` is {at(error, 'data.path')!r}")
    nearest = at(error, "data.nearest", int)
    expect(nearest % grid == 0, f"`data.nearest` {nearest} is not on the grid of {grid}")
    peer.refused("InvalidParams", "image.generate", drawing(height=most + grid))
    result = peer.call("image.generate", drawing(width=nearest), timeout=30)
    expect(at(result, "images.0.width") == nearest, "the nearest width that was reported could not be used")


@check("generate.order", "GEN-9")
def _order(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": None})
    peer.refused("InvalidParams", "image.generate", drawing(model="nobody", steps=0))
    peer.refused("CapabilityDenied", "image.generate", drawing(model="nobody"))


@check("generate.null", "REQ-1 REQ-2")
def _null(lab: Lab) -> None:
    options: dict[str, Any] = {"seed": 1, "steps": 1, "output": {"mode": "inline", "path": None}}
    nulls = {"width": None, "negativePrompt": None, "preview": None, "scheduler": None}
    one, other = (
        lab.shared().call("image.generate", {"prompt": PROMPT, "options": some}, timeout=30)
        for some in (options, options | nulls)
    )
    expect(at(one, "images.0.sha256") == at(other, "images.0.sha256"), "null for options changes the picture")
    meta = {"_meta": {"note": [1]}}
    noted = options | meta | {"output": {"mode": "inline"} | meta, "preview": meta}
    params = {"prompt": PROMPT, "options": noted} | meta
    noted = lab.shared().start_any("image.generate", params).result(30)
    expect(at(one, "images.0.sha256") == at(noted, "images.0.sha256"), "`_meta` changes the picture")


@check("generate.inline-limit", "GEN-8")
def _inline_limit(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": manifest("sd3.5-medium")})
    error = peer.refused("InvalidParams", "image.generate", drawing(model="sd3.5-medium", count=2))
    expect(at(error, "data.path", str).startswith("$.options"), f"`data.path` is {at(error, 'data.path')!r}")
    peer.call("image.generate", drawing(model="sd3.5-medium", steps=1), timeout=40)


@check("generate.previews-every", "GEN-18")
def _every(lab: Lab) -> None:
    call, _ = _drawn(lab, steps=7, preview={"mode": "linear", "everySteps": 3})
    told = [at(one, "step", int) for one in call.messages() if "preview" in one and at(one, "phase") == "denoising"]
    expect({1, 7} <= set(told) and len(told) < 5, f"with `everySteps` 3, steps {told} of 7 had previews")


@check("generate.no-preview", "FAKE-12")
def _no_preview(lab: Lab) -> None:
    call = lab.shared().start("image.generate", drawing("fake:nopreview a lake"), stream=True)
    warnings = at(call.result(30), "warnings")
    expect(not any("preview" in one for one in call.messages()), "a preview came that could not be decoded")
    expect(isinstance(warnings, list), "`warnings` is not an array")


@check("generate.paths", "GEN-22")
def _paths(lab: Lab) -> None:
    _, result = _drawn(lab, count=2, output={"mode": "save", "path": "new/folder/a.png"})
    told = [at(one, "relativePath") for one in at(result, "images", list)]
    expect(told == ["new/folder/a-1.png", "new/folder/a-2.png"], f"two images were saved as {told}")
    _, result = _drawn(lab, output={"mode": "save"})
    name = at(result, "images.0.relativePath", str)
    expect((lab.folder() / name).is_file(), f"there is no file {name}, which the result names")
    for odd in NAMES_REFUSED:
        error = lab.shared().refused("InvalidParams", "image.generate", drawing(output={"path": odd}))
        expect(
            at(error, "data.path") == "$.options.output.path", f"for {odd!r} `data.path` is {at(error, 'data.path')!r}"
        )


@check("generate.metadata", "GEN-23")
def _metadata(lab: Lab) -> None:
    for kind in MAGIC:
        full, none = (
            _bytes(at(_drawn(lab, output={"mode": "inline", "metadata": told, "mimeType": kind})[1], "images.0"))
            for told in ("full", "none")
        )
        expect(b"locara" in full, f"{kind} with `metadata` full does not hold what determines the image")
        expect(b"trainedAlgorithmicMedia" in full, f"{kind} with `metadata` full is not marked as AI-generated")
        expect(b"locara" not in none, f"{kind} with `metadata` none holds more than pixels")
        if kind == "image/png":
            expect(_pixels(full) == _pixels(none), "`metadata` changes the pixels")


def _pixels(png: bytes) -> bytes:
    """Return the compressed pixels of a PNG."""
    return b"".join(body for kind, body in chunks(png) if kind == b"IDAT")
