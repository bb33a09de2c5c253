"""Edits of several pictures: their order, how many a model takes, and how an error names one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_conformance.checks import check
from locara_conformance.groups.edit import drawn_picture, inline
from locara_conformance.groups.pictures import ENTRY, catalogue
from locara_conformance.lab import PROMPT, at, decoded, expect, manifest
from locara_conformance.raster import png, rows

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer

SEVERAL: dict[str, Any] = ENTRY | {
    "id": "uses-several",
    "modalities": ["text-to-image", "image-text-to-image"],
    "family": "flux2",
    "classifierFreeGuidance": False,
    "defaults": ENTRY["defaults"] | {"guidance": 1.0},
    "maxReferences": 3,
}
"""A model that can use several pictures."""
_RED, _BLUE, _GREEN = (
    png(128, 128, lambda _row, colour=colour: colour) for colour in (b"\xc0\0\0", b"\0\0\xc0", b"\0\xc0\0")
)


OPTIONS: dict[str, Any] = {"seed": 1, "steps": 2, "output": {"mode": "inline"}}


def _editing(images: list[Any], model: str = "uses-several", **more: Any) -> dict[str, Any]:
    options = OPTIONS | {"model": model}
    return {"prompt": PROMPT, "images": images, "options": options} | more


def _session(lab: Lab) -> Peer:
    modalities = ["text-to-image", "image-to-image", "image-text-to-image"]
    declared = manifest("pocket", "uses-several") | {"modalities": modalities}
    return lab.session("--catalogue", catalogue(lab, SEVERAL), opening={"manifest": declared})


@check("references.order", "EDIT-15")
def _order(lab: Lab) -> None:
    peer = _session(lab)
    for name, data in (("red.png", _RED), ("blue.png", _BLUE)):
        (lab.folder() / name).write_bytes(data)
    red, blue = ({"root": "user-folder", "path": name} for name in ("red.png", "blue.png"))
    made: list[Any] = []
    for images in ([red, blue], [blue, red], [red, blue, inline(_GREEN)]):
        result = peer.call("image.edit", _editing(images), timeout=40)
        told = [one.get("path") for one in at(result, "parameters.images", list)]
        expect(told == [one.get("path") for one in images], f"`parameters.images` names {told}")
        made.append(rows(decoded(result, "images.0.data")))
    expect(made[0] != made[1], "two pictures in another order make the same picture")
    expect(made[0] != made[2], "a third picture changes nothing")


@check("references.most", "EDIT-17")
def _most(lab: Lab) -> None:
    peer = _session(lab)
    for model, most in (("pocket", 1), ("uses-several", 3)):
        told = at(peer.call("models.get", {"model": model}), "maxReferences")
        expect(told == most, f"`maxReferences` of {model} is {told!r}, not {most}")
        error = peer.refused("InvalidParams", "image.edit", _editing([inline(_RED)] * (most + 1), model))
        expect(at(error, "data.path") == "$.images", f"`data.path` is {at(error, 'data.path')!r}")
        expect(at(error, "data.maxReferences") == most, f"`data.maxReferences` is {at(error, 'data.maxReferences')!r}")
    unnamed = _editing([inline(_RED), inline(_BLUE)], options=OPTIONS)
    used = at(peer.call("image.edit", unnamed, timeout=40), "model.id")
    expect(used == "uses-several", f"without a model, {used} was used for two pictures")


@check("references.one", "EDIT-18 EDIT-19")
def _one(lab: Lab) -> None:
    peer = lab.shared()
    picture = inline(drawn_picture(peer))
    listed = _editing([picture], "pocket")
    alone = {"image": picture, **{name: value for name, value in listed.items() if name != "images"}}
    digests = {at(peer.call("image.edit", params, timeout=30), "images.0.sha256") for params in (alone, listed)}
    expect(len(digests) == 1, "one picture in `images` makes another file than in `image`")
    peer.refused("InvalidParams", "image.edit", alone | listed)
    peer.refused("InvalidParams", "image.edit", {"prompt": PROMPT, "options": OPTIONS | {"model": "pocket"}})
    peer.refused("InvalidParams", "image.edit", _editing([], "pocket"))


@check("references.named", "EDIT-16")
def _named(lab: Lab) -> None:
    peer = _session(lab)
    cases: list[tuple[str, Any, str]] = [
        ("InvalidImage", inline(b"no picture"), "$.images[1]"),
        ("InvalidImage", inline(_RED[: len(_RED) // 2]), "$.images[1]"),
        ("StorageError", {"root": "user-folder", "path": "none.png"}, "$.images[1].path"),
        ("InvalidParams", {"root": "user-folder"}, "$.images[1].path"),
    ]
    for kind, second, path in cases:
        error = peer.refused(kind, "image.edit", _editing([inline(_RED), second]))
        expect(at(error, "data.path") == path, f"`data.path` is {at(error, 'data.path')!r}, not {path}")


@check("references.gate", "EDIT-20")
def _gate(lab: Lab) -> None:
    peer = _session(lab)
    saved = {"options": OPTIONS | {"model": "uses-several", "output": {"root": "app-data"}}}
    cases: list[tuple[dict[str, str], str, dict[str, Any]]] = [
        ({"root": "app-data", "path": "a.png"}, "$.images[2].root", {}),
        ({"root": "app-data", "path": "a.png"}, "$.images[2].root", saved),  # which may not be written either
        ({"handle": "nobody"}, "$.images[2].handle", {}),
    ]
    for denied, path, more in cases:
        images = [{"root": "user-folder", "path": "none.png"}, inline(_RED), denied]
        error = peer.refused("CapabilityDenied", "image.edit", _editing(images, **more))
        expect(at(error, "data.path") == path, f"`data.path` is {at(error, 'data.path')!r}, not {path}")


@check("references.together", "EDIT-21")
def _together(lab: Lab) -> None:
    peer = _session(lab)
    names = ("a.png", "b.png", "c.png")
    for name in names:
        with (lab.folder() / name).open("wb") as file:
            file.write(_RED)
            file.truncate(48 << 20)
    images = [{"root": "user-folder", "path": name} for name in names]
    error = peer.refused("InvalidImage", "image.edit", _editing(images))
    expect(at(error, "data.path") == "$.images[2]", f"`data.path` is {at(error, 'data.path')!r}")


@check("references.shape", "EDIT-22")
def _shape(lab: Lab) -> None:
    peer = _session(lab)
    for width, height in ((63, 256), (64, 513)):
        odd = inline(png(width, height, lambda _row: b"\0\0\xc0"))
        error = peer.refused("InvalidImage", "image.edit", _editing([inline(_RED), odd]))
        expect(at(error, "data.path") == "$.images[1]", f"`data.path` is {at(error, 'data.path')!r}")
