"""Picked files without a path: as bytes, or as an open descriptor."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.groups.edit import drawn_picture, editing, inline, picking
from locara_conformance.lab import at, decoded, drawing, expect
from locara_conformance.outcomes import Skip
from locara_protocol.handing import HandingSocket

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from locara_conformance.lab import Lab
    from locara_conformance.peer import Call, Peer


@check("picked.sent", "PICK-12")
def _sent(lab: Lab) -> None:
    peer = lab.spawn()
    told = peer.call("initialize", lab.opening(manifest=picking()), timeout=max(20.0, lab.timeout))
    drawn = drawn_picture(peer)
    picture, data = inline(drawn), base64.b64encode(drawn).decode()
    picked = peer.call("host.pickFile", {"name": "a.png", "data": data, "access": "read"})
    expect(at(picked, "name") == "a.png" and at(picked, "bytes") == len(drawn), f"`name` and `bytes` are {picked}")
    digests = {
        at(peer.call("image.edit", editing(image), timeout=30), "images.0.sha256")
        for image in (picture, {"handle": at(picked, "handle", str)})
    }
    expect(len(digests) == 1, "the same picture inline and as a picked file gives different results")
    limit = at(told, "capabilities.limits.maxInlineImageBytes", int)
    large = base64.b64encode(bytes(limit + 1)).decode()
    error = peer.refused("InvalidParams", "host.pickFile", {"name": "a.png", "data": large, "access": "read"})
    expect(at(error, "data.path") == "$.data", f"`data.path` is {at(error, 'data.path')!r}")


@contextlib.contextmanager
def _handing(lab: Lab) -> Generator[tuple[Peer, HandingSocket]]:
    """Yield a session that was given a socket at spawn, and the host's end of it."""
    if sys.platform == "win32":
        raise Skip("open files are handed over through a Unix socket")
    socket = HandingSocket()
    try:
        peer = lab.session(*socket.flags, opening={"manifest": picking()}, inherited=socket.inherited)
        socket.spawned()
        yield peer, socket
    finally:
        socket.close()


def _hand(peer: Peer, socket: HandingSocket, file: Path, access: str) -> Call:
    """Send the open file, and then the call that names it."""
    with file.open("rb" if access == "read" else "r+b") as opened:
        passed = socket.send(opened.fileno())
    return peer.start("host.pickFile", {"name": file.name, "descriptor": passed, "access": access})


@check("picked.handed", "PICK-13")
def _handed(lab: Lab) -> None:
    with _handing(lab) as (peer, socket):
        file = lab.folder() / "a.png"
        file.write_bytes(picture := drawn_picture(peer))
        picked = _hand(peer, socket, file, "read").result()
        expect(at(picked, "bytes") == len(picture), f"`bytes` is {at(picked, 'bytes')!r}")
        file.unlink()
        edited = peer.call("image.edit", editing({"handle": at(picked, "handle", str)}), timeout=30)
        expected = peer.call("image.edit", editing(inline(picture)), timeout=30)
        same = at(edited, "images.0.sha256") == at(expected, "images.0.sha256")
        expect(same, "the same picture inline and by its descriptor gives different results")


@check("picked.handed-written", "PICK-17")
def _handed_written(lab: Lab) -> None:
    with _handing(lab) as (peer, socket):
        file = lab.folder() / "out.png"
        for before in (b"", b"old" * 100_000):
            file.write_bytes(before)
            handle = at(_hand(peer, socket, file, "write").result(), "handle", str)
            made = peer.call("image.generate", drawing(output={"handle": handle, "mode": "both"}), timeout=30)
            data = decoded(made, "images.0.data")
            expect(file.read_bytes() == data, f"the file of {len(before)} bytes does not hold the picture and no more")


@check("picked.handed-once", "PICK-14")
def _handed_once(lab: Lab) -> None:
    with _handing(lab) as (peer, socket):
        file = lab.folder() / "a.png"
        file.write_bytes(b"a picture")
        _hand(peer, socket, file, "read").result()
        with file.open("rb") as opened:
            refused = socket.send(opened.fileno())
        peer.refused("StorageError", "host.pickFile", {"name": "a.png", "descriptor": refused, "access": "write"})
        for passed in ("file-1", refused, "nobody"):
            params = {"name": "a.png", "descriptor": passed, "access": "read"}
            error = peer.refused("InvalidParams", "host.pickFile", params)
            expect(at(error, "data.path") == "$.descriptor", f"`data.path` is {at(error, 'data.path')!r}")


@check("picked.handed-access", "PICK-15")
def _handed_access(lab: Lab) -> None:
    with _handing(lab) as (peer, socket):
        file = lab.folder() / "a.png"
        file.write_bytes(b"old")
        opened = {
            "EBADF": (os.open(file, os.O_RDONLY), "write"),
            "EISDIR": (os.open(lab.folder(), os.O_RDONLY), "read"),
        }
        for errno, (fd, access) in opened.items():
            passed = socket.send(fd)
            os.close(fd)
            params = {"name": "a.png", "descriptor": passed, "access": access}
            error = peer.refused("StorageError", "host.pickFile", params)
            expect(at(error, "data.errno") == errno, f"`data.errno` is {at(error, 'data.errno')!r}, not {errno}")
            expect(at(error, "data.path") == "$.descriptor", f"`data.path` is {at(error, 'data.path')!r}")


@check("picked.forms", "PICK-16")
def _pick_forms(lab: Lab) -> None:
    peer = lab.session(opening={"manifest": picking()})
    file = lab.folder() / "a.png"
    file.write_bytes(b"a picture")
    path, data = str(file), base64.b64encode(b"a picture").decode()
    wrong: tuple[tuple[dict[str, str], str], ...] = (
        ({"access": "read"}, "$.path"),
        ({"access": "read", "path": path, "data": data}, "$.data"),
        ({"access": "read", "path": path, "name": "a.png"}, "$.name"),
        ({"access": "read", "data": data}, "$.name"),
        ({"access": "read", "data": data, "name": "b/a.png"}, "$.name"),
        ({"access": "write", "data": data, "name": "a.png"}, "$.data"),
    )
    for params, expected in wrong:
        error = peer.refused("InvalidParams", "host.pickFile", params)
        expect(at(error, "data.path") == expected, f"`data.path` of {sorted(params)} is {at(error, 'data.path')!r}")
