"""Edits whose outcome depends on the picture: its size, its file, the kind of model."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

from locara_conformance.checks import check
from locara_conformance.lab import PROMPT, at, decoded, drawing, expect, manifest
from locara_conformance.raster import apart, png, rows

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer

MODEL, INSTRUCTED = "sd3.5-medium", "flux.1-kontext-dev"
ENTRY: dict[str, Any] = {
    "id": "draws-only",
    "version": "1",
    "order": 900,
    "displayName": "Draws only",
    "description": "Makes pictures of words and cannot change one.",
    "license": "none",
    "licenseUrl": "https://example.com/license",
    "commercialUse": True,
    "gated": False,
    "modalities": ["text-to-image"],
    "family": "sd3",
    "parameters": 1000,
    "classifierFreeGuidance": True,
    "schedulers": ["flow-match-euler"],
    "defaults": {
        "width": 64, "height": 64, "steps": 4, "guidance": 3.0, "scheduler": "flow-match-euler", "maxSequenceLength": 77
    },
    "sides": {"minimum": 64, "maximum": 512, "multipleOf": 16, "maxPixels": 262144},
    "source": {},
}  # fmt: skip
"""A complete catalogue entry."""


def rotated(jpeg: bytes) -> bytes:
    """Return the JPEG with an EXIF orientation that rotates it by 90 degrees."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def catalogue(lab: Lab, *entries: dict[str, Any]) -> str:
    """Create a folder for ``--catalogue``, including one file that is not an entry."""
    folder = lab.root / "catalogue"
    folder.mkdir(exist_ok=True)
    (folder / "broken.json").write_text("{")
    for entry in entries:
        (folder / f"{entry['id']}.json").write_text(json.dumps(entry))
    return str(folder)


def _session(lab: Lab, *flags: str) -> Peer:
    modalities = ["text-to-image", "image-to-image", "image-text-to-image"]
    declared = manifest("pocket", MODEL, INSTRUCTED, "draws-only") | {"modalities": modalities}
    return lab.session(*flags, opening={"manifest": declared})


def _edit(data: bytes, kind: str = "image/png", model: str = MODEL, **options: Any) -> dict[str, Any]:
    output = {"mode": "inline"}
    return {
        "prompt": PROMPT,
        "image": {"data": base64.b64encode(data).decode(), "mimeType": kind},
        "options": {"model": model, "seed": 1, "steps": 2, "output": output} | options,
    }


def _size(result: Any) -> tuple[int, int]:
    return at(result, "images.0.width"), at(result, "images.0.height")


@check("edit.size", "EDIT-5")
def _own_size(lab: Lab) -> None:
    peer = _session(lab)
    made = _size(peer.call("image.edit", _edit(png(256, 320)), timeout=40))
    expect(made == (256, 320), f"an edit of 256 × 320 pixels made {made}")
    error = peer.refused("InvalidParams", "image.edit", _edit(png(257, 320)))
    expect(at(error, "data.width", int) % 16 == 0, f"the nearest width that is reported is {at(error, 'data.width')}")
    expect(at(error, "data.height") == 320, f"the nearest height that is reported is {at(error, 'data.height')}")


@check("edit.instruction", "EDIT-3")
def _instruction(lab: Lab) -> None:
    peer = _session(lab)
    error = peer.refused("InvalidParams", "image.edit", _edit(png(64, 64), model=INSTRUCTED, strength=0.5))
    expect(at(error, "data.path") == "$.options.strength", f"`data.path` is {at(error, 'data.path')!r}")
    masked = _edit(png(64, 64), model=INSTRUCTED)
    masked["mask"] = masked["image"]
    error = peer.refused("InvalidParams", "image.edit", masked)
    expect(at(error, "data.path") == "$.mask", f"`data.path` is {at(error, 'data.path')!r}")


def _unnamed(params: dict[str, Any]) -> dict[str, Any]:
    """Return the params without a model."""
    options = at(params, "options", dict)
    return params | {"options": {name: value for name, value in options.items() if name != "model"}}


@check("edit.cannot", "EDIT-4")
def _cannot(lab: Lab) -> None:
    declared = manifest("pocket", "draws-only")
    peer = lab.session("--catalogue", catalogue(lab, ENTRY | {"order": 1}), opening={"manifest": declared})
    error = peer.refused("InvalidParams", "image.edit", _edit(png(64, 64), model="draws-only"))
    expect(at(error, "data.path") == "$.options.model", f"`data.path` is {at(error, 'data.path')!r}")
    used = at(peer.call("image.generate", _unnamed(drawing(width=64, height=64)), timeout=40), "model.id")
    expect(used == "draws-only", f"without a model, {used} drew, not the first one")
    used = at(peer.call("image.edit", _unnamed(_edit(png(128, 128))), timeout=40), "model.id")
    expect(used != "draws-only", "without a model, one was used that cannot edit")


def _jpeg(peer: Peer) -> bytes:
    params = drawing(model=MODEL, width=256, height=320, output={"mode": "inline", "mimeType": "image/jpeg"})
    return decoded(peer.call("image.generate", params, timeout=40), "images.0.data")


@check("edit.jpeg-end", "EDIT-10")
def _jpeg_end(lab: Lab) -> None:
    peer = _session(lab)
    jpeg = _jpeg(peer)
    peer.call("image.edit", _edit(jpeg[:-2], "image/jpeg"), timeout=40)
    peer.refused("InvalidImage", "image.edit", _edit(jpeg[: len(jpeg) * 2 // 3], "image/jpeg"))


@check("edit.rotated", "EDIT-11")
def _rotated(lab: Lab) -> None:
    peer = _session(lab)
    made = _size(peer.call("image.edit", _edit(rotated(_jpeg(peer)), "image/jpeg"), timeout=40))
    expect(made == (320, 256), f"a 256 × 320 picture with an EXIF rotation became {made}")


@check("edit.mask", "EDIT-13 EDIT-14")
def _mask(lab: Lab) -> None:
    peer = lab.shared()
    drawn = peer.call("image.generate", drawing(seed=3), timeout=30)
    before = decoded(drawn, "images.0.data")
    width, height = at(drawn, "images.0.width", int), at(drawn, "images.0.height", int)
    half = height // 2
    lower = png(width, height, lambda row: b"\0\0\0" if row < half else b"\xff\xff\xff")
    params = _edit(before, model="pocket", strength=1.0)
    params["mask"] = {"data": base64.b64encode(lower).decode(), "mimeType": "image/png"}
    after = decoded(peer.call("image.edit", params, timeout=30), "images.0.data")
    expect(rows(after)[:half] == rows(before)[:half], "a pixel where the mask is 0 was changed")
    expect(rows(after)[half:] != rows(before)[half:], "nothing was repainted where the mask is white")
    (lab.folder() / "mask.png").write_bytes(lower)
    named = params | {"mask": {"root": "user-folder", "path": "mask.png"}}
    again = decoded(peer.call("image.edit", named, timeout=30), "images.0.data")
    expect(rows(again) == rows(after), "the same mask inline and by its name gives different results")
    params["mask"] = {"data": base64.b64encode(png(width, height // 2)).decode(), "mimeType": "image/png"}
    error = peer.refused("InvalidImage", "image.edit", params)
    expect(at(error, "data.path") == "$.mask", f"`data.path` of a mask of another size is {at(error, 'data.path')!r}")


@check("models.catalogue", "CLI-1")
def _catalogue(lab: Lab) -> None:
    declared = manifest("draws-only", "nobody")
    peer = lab.session("--catalogue", catalogue(lab, ENTRY), opening={"manifest": declared})
    told = peer.call("models.get", {"model": "draws-only"})
    expect(at(told, "displayName") == "Draws only", "an entry of `--catalogue` is not shown as written")
    error = peer.refused("ModelNotFound", "models.get", {"model": "nobody"})
    expect("broken.json" in str(at(error, "message")), "ModelNotFound does not name a file that cannot be used")
    peer.close_stdin()
    peer.wait_exit(6, "the end of stdin")
    expect(b"broken.json" in peer.stderr(), "a file that cannot be used is not named in the log")


@check("generate.previews-own", "GEN-13")
def _previews_own(lab: Lab) -> None:
    preview = {"mode": "linear", "mimeType": "image/png"}
    call = lab.shared().start("image.generate", drawing("fake:slow=100 a lake", steps=4, preview=preview), stream=True)
    picture = decoded(call.result(30), "images.0.data")
    shown = {at(one, "step", int): decoded(one, "preview.data") for one in call.messages() if "preview" in one}
    expect({1, 4} <= shown.keys(), f"of the first and the last of four steps, only {sorted(shown)} had a preview")
    expect(len(set(shown.values())) == len(shown), "two steps have one and the same preview")
    far = {step: apart(picture, data) for step, data in sorted(shown.items())}
    told = ", ".join(f"{step}: {levels:.1f}" for step, levels in far.items())
    expect(
        far[4] == min(far.values()) and far[4] < 16, f"the last preview is not like the picture (levels apart, {told})"
    )
