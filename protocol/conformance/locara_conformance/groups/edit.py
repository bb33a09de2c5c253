"""``image.edit`` and picked files: what is accepted, and what never leaks."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from locara_conformance.checks import check
from locara_conformance.lab import PROMPT, at, content, decoded, drawing, expect, manifest

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer


def drawn_picture(peer: Peer) -> bytes:
    """Return a picture drawn by the implementation."""
    return decoded(peer.call("image.generate", drawing(), timeout=30), "images.0.data")


def editing(image: Any, **options: Any) -> dict[str, Any]:
    """Return params for ``image.edit``, with the picture in the answer."""
    return {
        "prompt": PROMPT,
        "image": image,
        "options": {"model": "pocket", "seed": 1, "output": {"mode": "inline"}} | options,
    }


def inline(data: bytes) -> dict[str, str]:
    """Return a picture as sent inline in a call."""
    return {"data": base64.b64encode(data).decode(), "mimeType": "image/png"}


@check("edit.forms", "EDIT-1")
def _forms(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    picture = drawn_picture(peer)
    file = lab.folder() / "a.png"
    file.write_bytes(picture)
    handle = at(peer.call("host.pickFile", {"path": str(file), "access": "read"}), "handle", str)
    images = ({"root": "user-folder", "path": "a.png"}, {"handle": handle}, inline(picture))
    digests = {at(peer.call("image.edit", editing(image), timeout=30), "images.0.sha256", str) for image in images}
    expect(len(digests) == 1, "the same picture in its three forms gives different results")


@check("edit.strength", "EDIT-2")
def _strength(lab: Lab) -> None:
    peer = lab.shared()
    picture = inline(drawn_picture(peer))
    call = peer.start("image.edit", editing(picture, steps=10, strength=0.5), stream=True)
    call.result(30)
    steps = {at(one, "steps", int) for one in call.messages()}
    expect(bool(steps), "an edit with a channel reported nothing")
    expect(max(steps) < 10, f"at half strength, {steps} of 10 steps ran")
    told = [at(one, "step") for one in call.messages() if at(one, "phase") == "denoising" and at(one, "step")]
    expect(told == list(range(1, max(steps) + 1)), f"the finished steps that were reported are {told}")


@check("edit.bad-image", "EDIT-9 ERR-25")
def _bad(lab: Lab) -> None:
    peer = lab.shared()
    for data in (b"no picture", drawn_picture(peer)[:200]):
        error = peer.refused("InvalidImage", "image.edit", editing(inline(data)))
        expect(bool(at(error, "data.reason")), "`data.reason` is empty")
        expect(at(error, "data.path", str).startswith("$.image"), f"`data.path` is {at(error, 'data.path')!r}")
    claimed = inline(drawn_picture(peer)) | {"mimeType": "image/jpeg"}
    peer.refused("InvalidImage", "image.edit", editing(claimed))


@check("edit.files", "EDIT-8 CAP-6")
def _files(lab: Lab) -> None:
    peer, folder = lab.shared(), lab.folder()
    (folder / "real.png").write_bytes(drawn_picture(peer))
    (folder / "link.png").symlink_to(folder / "real.png")
    (folder / "folder.png").mkdir()
    for name, errno in (("none.png", "ENOENT"), ("link.png", "ELOOP"), ("folder.png", "EISDIR")):
        error = peer.refused("StorageError", "image.edit", editing({"root": "user-folder", "path": name}))
        expect(at(error, "data.errno") == errno, f"`data.errno` of {name} is {at(error, 'data.errno')!r}, not {errno}")
    outside = folder.parent / "outside.png"
    outside.write_bytes(content(folder / "real.png"))
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    for path in ("../outside.png", str(outside), "folder.png/../../outside.png", "up/outside.png"):
        answer = peer.start_any("image.edit", editing({"root": "user-folder", "path": path})).answer(30)
        expect("error" in answer, f"a picture outside of the root was read: {path}")


def picking() -> dict[str, Any]:
    """Return a manifest with a folder and picked files."""
    return manifest(fs={"user-folder": "read-write", "user-selected": "read-write"})


@check("picked.denied", "PICK-1")
def _denied(lab: Lab) -> None:
    file = lab.folder() / "a.png"
    file.write_bytes(b"")
    error = lab.shared().refused("CapabilityDenied", "host.pickFile", {"path": str(file), "access": "read"})
    expect(
        at(error, "data.resource") == "a.png", f"`data.resource` is {at(error, 'data.resource')!r}, not the file's name"
    )


@check("picked.held", "PICK-5")
def _held(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    file = lab.folder() / "a.png"
    file.write_bytes(drawn_picture(peer))
    handle = at(peer.call("host.pickFile", {"path": str(file), "access": "read"}), "handle", str)
    file.rename(lab.folder() / "b.png")
    file.write_bytes(b"something else")
    peer.call("image.edit", editing({"handle": handle}), timeout=30)


@check("picked.write", "PICK-9 PICK-7")
def _write(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    file = lab.folder() / "picked.png"
    file.write_bytes(b"old")
    picked = peer.call("host.pickFile", {"path": str(file), "access": "write"})
    expect(at(picked, "name") == "picked.png", f"`name` is {at(picked, 'name')!r}")
    handle = at(picked, "handle", str)
    image = at(peer.call("image.generate", drawing(output={"handle": handle}), timeout=30), "images.0", dict)
    expect(at(image, "handle") == handle and "path" not in image, "the result has a path instead of the handle")
    first = content(file)
    expect(first.startswith(b"\x89PNG"), "the picked file does not hold the picture")
    peer.call("image.generate", drawing(seed=2, output={"handle": handle}), timeout=30)
    expect(content(file) != first, "a second picture through the same handle did not replace the first")
    error = peer.refused("InvalidParams", "image.generate", drawing(count=2, output={"handle": handle}))
    expect(at(error, "data.path") == "$.options.count", f"`data.path` is {at(error, 'data.path')!r}")


@check("picked.released", "PICK-11 PICK-10 LIFE-19")
def _released(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    file = lab.folder() / "a.png"
    file.write_bytes(drawn_picture(peer))
    handle = at(peer.call("host.pickFile", {"path": str(file), "access": "read"}), "handle", str)
    peer.call("host.releaseFile", {"handle": handle})
    peer.call("host.releaseFile", {"handle": handle})
    other = at(peer.call("host.pickFile", {"path": str(file), "access": "write"}), "handle", str)
    for one in (handle, other, "nobody"):
        error = peer.refused("InvalidParams", "image.edit", editing({"handle": one}))
        expect(at(error, "data.path") == "$.image.handle", f"`data.path` is {at(error, 'data.path')!r}")


@check("picked.told", "PICK-4 LIFE-18")
def _told(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    file = lab.folder() / "a.png"
    file.write_bytes(b"x" * 1234)
    picked = peer.call("host.pickFile", {"path": str(file), "access": "read"})
    expect(at(picked, "name") == "a.png", f"`name` is {at(picked, 'name')!r}")
    expect(at(picked, "bytes") == 1234, f"`bytes` is {at(picked, 'bytes')!r}")


@check("picked.kinds", "PICK-6")
def _kinds(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    error = peer.refused("StorageError", "host.pickFile", {"path": str(lab.folder()), "access": "read"})
    expect(at(error, "data.errno") == "EISDIR", f"`data.errno` of a folder is {at(error, 'data.errno')!r}")
    expect(at(error, "data.path") == "$.path", f"`data.path` is {at(error, 'data.path')!r}")
    peer.refused("InvalidParams", "host.pickFile", {"path": str(lab.folder() / "a.txt"), "access": "write"})
