"""Lines: where a message begins and ends, in both directions."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.groups.replay import replay
from locara_conformance.lab import at, drawing, expect
from locara_conformance.outcomes import Skip
from locara_conformance.watch import answers

if TYPE_CHECKING:
    from locara_conformance.lab import Lab

PING = b'{"jsonrpc":"2.0","id":"%s","method":"ping"}'


def _traffic(lab: Lab) -> None:
    """Produce traffic for the watch: a result, an error, the frames of a call, the longest possible result."""
    peer = lab.shared()
    peer.call("rpc.discover")
    peer.refused("MethodNotFound", "nobody.knows.this")
    call = peer.start("image.generate", drawing(), stream=True)
    call.result(30)
    expect(bool(call.messages()), "the call had no messages")


@check("framing.lf-only", "WIRE-2", watched=True)
def _lf_only(lab: Lab) -> None:
    peer = lab.shared()
    peer.send_line(PING % b"crlf", b"\r\n")
    peer.wait("answer to a ping that ended with CRLF", lambda one: answers(one, "crlf"))
    _traffic(lab)


@check("framing.utf-8", "WIRE-1", watched=True)
def _utf8(lab: Lab) -> None:
    peer = lab.shared()
    name = "Größe 寸法 😀"
    peer.send({"jsonrpc": "2.0", "id": name, "method": "ping"})
    peer.wait("answer with an id beyond ASCII", lambda one: answers(one, name))
    error = peer.refused("InvalidParams", "ping", {name: 1})
    expect(name in str(at(error, "data.path")), "`data.path` does not have the member's name as it was sent")


@check("framing.lf-ended", "WIRE-1", watched=True)
def _lf_ended(lab: Lab) -> None:
    peer = lab.session()
    peer.barrier()
    peer.close_stdin()
    peer.wait_exit(5, "the end of stdin")
    expect(peer.closed, "its output did not end with it")


@check("framing.sizes", "WIRE-5 GEN-20", watched=True)
def _sizes(lab: Lab) -> None:
    _traffic(lab)
    peer = lab.shared()
    preview = {"maxBytes": 40960, "maxSide": 1024, "mimeType": "image/png"}
    call = peer.start("image.generate", drawing(preview=preview), stream=True)
    call.result(30)
    expect(any("preview" in message for message in call.messages()), "no preview came with `preview.maxBytes` 40960")


@check("framing.crlf", "WIRE-2")
def _crlf(lab: Lab) -> None:
    replay(lab, "lines")


@check("framing.pieces", "WIRE-1")
def _pieces(lab: Lab) -> None:
    peer = lab.shared()
    line = PING % "in pieces é".encode()
    middle = line.index(b"\xc3") + 1
    peer.send_line(line, pieces=(1, 20, middle))
    peer.wait("answer to a line in pieces", lambda one: answers(one, "in pieces é"))


@check("framing.long-line", "WIRE-4")
def _long_line(lab: Lab) -> None:
    replay(lab, "long-lines")


@check("framing.long-line-memory", "WIRE-4")
def _long_line_memory(lab: Lab) -> None:
    peer = lab.session()
    peer.barrier()
    before = _resident(peer.process.pid)
    peer.note("a line of 96 MiB without an end")
    for _ in range(96):
        peer.write(b"x" * (1 << 20))
    grown = _resident(peer.process.pid) - before
    peer.send_line(b"")
    peer.wait("answer to the long line", lambda one: answers(one, None))
    peer.barrier()
    expect(grown < 64 << 20, f"it grew by {grown >> 20} MiB while a line of 96 MiB came")


@check("framing.own-limit", "CLI-10")
def _own_limit(lab: Lab) -> None:
    peer = lab.spawn("--max-line-bytes", "2000")
    told = peer.call("initialize", lab.opening(manifest=None, grants=None), timeout=20)
    expect(at(told, "capabilities.limits.maxLineBytes") == 2000, "`limits.maxLineBytes` is not what the flag says")
    peer.send_line(b"x" * 3000)
    answer = peer.wait("answer to a line over the limit", lambda one: answers(one, None))
    expect(at(answer, "error.data.maxLineBytes") == 2000, "`data.maxLineBytes` is not what the flag says")
    peer.barrier()


def _resident(pid: int) -> int:
    """Return the resident memory, in bytes, of a process and its children."""
    if sys.platform == "win32":
        raise Skip("the memory of a process cannot be read on this system")
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        raise Skip("the memory of a process cannot be read on this system") from None
