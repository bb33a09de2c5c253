"""The three descriptors: nothing but messages on stdout, a log on stderr, pipes that are non-blocking or full."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from locara_conformance.checks import check
from locara_conformance.lab import drawing, expect
from locara_conformance.outcomes import Failed, Skip
from locara_conformance.watch import answers

if TYPE_CHECKING:
    from locara_conformance.lab import Lab

SECRET = "zanzibar-marzipan"
_FULL = 1 << 14
"""The minimum capacity of a pipe, in bytes, on every system."""


@check("stdout.messages-only", "WIRE-3 FAKE-13", watched=True)
def _messages_only(lab: Lab) -> None:
    peer = lab.session()
    peer.start("image.generate", drawing("fake:stderr a lake"), stream=True).result(30)
    for word in ("fake:error", "fake:abort=denoising"):
        peer.start("image.generate", drawing(f"{word} a lake"), stream=True).answer(30)
    peer.send_line(b"hello")
    peer.wait("answer to a line that is not JSON", lambda one: answers(one, None))
    peer.call("shutdown")
    peer.notify("exit")
    peer.wait_exit(6, "exit")


@check("stdout.silent-start", "WIRE-3")
def _silent(lab: Lab) -> None:
    peer = lab.spawn()
    time.sleep(1)
    expect(not any(event.way == "←" for event in peer.events), "it wrote before it was asked anything")
    peer.barrier()


@check("stderr.json", "WIRE-3")
def _stderr(lab: Lab) -> None:
    for line in _busy_log(lab).splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            raise Failed(f"a line on stderr is not JSON: {line[:120]!r}") from None
        expect(isinstance(entry, dict), f"a line on stderr is not an object: {line[:120]!r}")


@check("stderr.private", "WIRE-3 CLI-11")
def _private(lab: Lab) -> None:
    log = _busy_log(lab)
    expect(bool(log.strip()), "nothing was logged, not even at the level debug")
    expect(SECRET.encode() not in log, "the prompt or the token is in the log")


def _busy_log(lab: Lab) -> bytes:
    """Return the log at its most verbose, of jobs that succeed and fail with SECRET in their prompts and in the
    token.
    """
    peer = lab.session("--log-level", "debug", opening={"auth": {"token": SECRET}})
    for word in ("", "fake:error ", "fake:abort=encoding "):
        peer.start("image.generate", drawing(f"{word}{SECRET}"), stream=True).answer(30)
    peer.refused("InvalidParams", "image.generate", {"prompt": SECRET, "options": {"steps": "x"}})
    peer.send_line(b'{"jsonrpc":"2.0","id":1,"method":"image.generate","params":{"prompt":"%s"' % SECRET.encode())
    peer.barrier()
    peer.close_stdin()
    peer.wait_exit(6, "the end of stdin")
    return peer.stderr()


@check("stderr.level", "CLI-11")
def _level(lab: Lab) -> None:
    counts: list[int] = []
    for level in ("error", "info", "debug"):
        peer = lab.session("--log-level", level)
        peer.start("image.generate", drawing("fake:stderr a lake"), stream=True).result(30)
        peer.close_stdin()
        peer.wait_exit(6, "the end of stdin")
        counts.append(len(peer.stderr().splitlines()))
    error, info, debug = counts
    expect(error < info < debug, f"one session logs {error} lines at error, {info} at info and {debug} at debug")


@check("pipes.nonblocking", "HOST-3")
def _nonblocking(lab: Lab) -> None:
    peer = lab.session(nonblocking=True)
    time.sleep(0.3)
    for _ in range(3):
        peer.barrier()
        time.sleep(0.1)
    _flood(peer)
    call = peer.start("image.generate", drawing(steps=4), stream=True)
    call.result(30)


@check("pipes.nonblocking-kept", "HOST-3")
def _kept(lab: Lab) -> None:
    if sys.platform == "win32":
        raise Skip("pipes are never non-blocking on this system")
    peer = lab.session(nonblocking=True)
    peer.barrier()
    expect(not os.get_blocking(peer.child_ends[0]), "it made its stdin blocking")


@check("pipes.full", "WIRE-8")
def _full(lab: Lab) -> None:
    _flood(lab.session())


def _flood(peer: Any) -> None:
    """Request far more answers than a pipe holds without reading; all must arrive once somebody reads."""
    peer.pause()
    calls = [peer.start("rpc.discover") for _ in range(20)]
    until = time.monotonic() + 10
    while peer.unread() < _FULL and time.monotonic() < until:  # a busy machine needs time
        time.sleep(0.02)
    time.sleep(0.3)
    peer.resume()
    sizes = {len(json.dumps(call.result(30))) for call in calls}
    expect(len(sizes) == 1, "answers to the same request differ")
    ids = [cast("dict[str, Any]", one).get("id") for one in peer.inbox if isinstance(one, dict) and "result" in one]
    expect(len(set(ids)) == len(ids), "an answer came twice")


@check("pipes.held-back", "WIRE-8")
def _held_back(lab: Lab) -> None:
    if sys.platform == "win32":
        raise Skip("pipes are never non-blocking on this system")
    peer = lab.session()
    peer.barrier()
    peer.watched = False
    peer.pause()
    peer.note("requests are written while nobody reads, until no more are taken")
    taken = 0
    line = json.dumps({"jsonrpc": "2.0", "id": "flood", "method": "rpc.discover"}).encode() + b"\n"
    os.set_blocking(peer.stdin, False)
    idle = time.monotonic()
    while time.monotonic() - idle < 1 and taken < 4 << 20:
        try:
            taken += os.write(peer.stdin, line * 100)
            idle = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    expect(taken < 4 << 20, f"it accepted {taken} bytes of requests while nobody read the answers")


@check("pipes.stderr-unread", "HOST-2")
def _stderr_unread(lab: Lab) -> None:
    peer = lab.session("--log-level", "debug", unread_stderr=True)
    for _ in range(600):
        peer.start_any("image.generate", {"prompt": "a", "options": {"x" * 500: 1}})
    peer.barrier()
    peer.start("image.generate", drawing("fake:stderr a lake", steps=4), stream=True).result(30)
    peer.barrier()
