"""How the process ends: shutdown and exit, the end of stdin, signals, the host's death, a usage error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.groups.replay import replay
from locara_conformance.lab import busy, drawing, expect
from locara_conformance.outcomes import Failed, Late, Skip

if TYPE_CHECKING:
    from collections.abc import Callable

    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer

SECONDS = 2.0
"""The contract's time limit for ending."""
SLACK = 0.5
"""Additional allowance for a shared machine."""
PATIENCE = 6.0
"""Beyond this it is a failure, before it only late, because machines are shared."""

ANSWERED = "WIRE-10"
HOST = "import subprocess, sys; sys.exit(subprocess.Popen(sys.argv[1:]).wait())"
"""A host that passes its own pipes to the sidecar and waits."""


def _ends(peer: Peer, after: str, status: int = 0, seconds: float = SECONDS) -> None:
    began = time.monotonic()
    left = peer.wait_exit(PATIENCE, after)
    took = time.monotonic() - began
    expect(left == status, f"its exit status after {after} is {left}, not {status}")
    if took > seconds + SLACK:
        raise Late(f"it was gone {took:.1f} s after {after}")


@check("ending.shutdown", "LIFE-7")
def _shutdown(lab: Lab) -> None:
    replay(lab, "lifecycle", "^after shutdown")
    peer = lab.session()
    call = busy(peer)
    result = peer.call("shutdown")
    expect(result == {}, f"the result of shutdown is {result}")
    expect(call.answered(), "shutdown was answered before the job that it cancels")
    call.error("RequestCancelled")
    peer.refused("InvalidRequest", "ping")
    peer.notify("exit")
    _ends(peer, "exit")


@check("ending.exit-status", "LIFE-15")
def _exit(lab: Lab) -> None:
    peer = lab.session()
    peer.notify("exit")
    _ends(peer, "exit without shutdown", 1)


@check("ending.eof", "LIFE-16")
def _eof(lab: Lab) -> None:
    peer = lab.session()
    peer.barrier()
    peer.close_stdin()
    _ends(peer, "the end of stdin")


def _accepted(lab: Lab, after: str, end: Callable[[Peer], None]) -> None:
    """Test that jobs which run and wait when the end comes are all answered before the process is gone."""
    peer = lab.session()
    calls = [busy(peer), *(peer.start("image.generate", drawing(), stream=True) for _ in range(3))]
    peer.barrier()
    end(peer)
    late: Late | None = None
    try:
        _ends(peer, after)
    except Late as late_:
        late = late_
    for call in calls:
        call.error("RequestCancelled", 1)
    if late is not None:
        raise late


@check("ending.eof-answers", ANSWERED)
def _eof_answers(lab: Lab) -> None:
    _accepted(lab, "the end of stdin", lambda peer: peer.close_stdin())


@check("ending.eof-all-lines", "HOST-8", level="SHOULD")
def _eof_lines(lab: Lab) -> None:
    peer = lab.session()
    calls = [peer.start("ping") for _ in range(200)]
    peer.close_stdin()
    _ends(peer, "the end of stdin")
    for call in calls:
        call.result(1)


@check("ending.eof-hung", "WIRE-10")
def _eof_hung(lab: Lab) -> None:
    peer = lab.session()
    call = peer.start("image.generate", drawing("fake:hang=denoising a lake", steps=3), stream=True)
    call.until("denoising", timeout=20)
    peer.close_stdin()
    _ends(peer, "the end of stdin while the engine hangs")


@check("ending.eof-unread", "HOST-6 HOST-7")
def _eof_unread(lab: Lab) -> None:
    peer = lab.session()
    busy(peer)
    peer.pause()
    for _ in range(40):
        peer.start("rpc.discover")
    peer.close_stdin()
    _ends(peer, "the end of stdin of a host that does not read", seconds=0.6 + SECONDS)


@check("ending.host-death", "HOST-4")
def _host_death(lab: Lab) -> None:
    if sys.platform == "win32":
        raise Skip("no process can be killed so that its pipes stay open")
    peer = lab.session(through=(sys.executable, "-c", HOST))
    busy(peer)
    peer.note("the process that spawned it is killed, its pipes stay open")
    os.kill(peer.process.pid, signal.SIGKILL)
    _gone(peer, "the host's death")


@check("ending.process-id", "LIFE-8")
def _process_id(lab: Lab) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        peer = lab.session(opening={"processId": other.pid})
        peer.barrier()
    finally:
        other.kill()
        other.wait()
    peer.note("the process that `processId` names is killed")
    _gone(peer, "the end of the process that `processId` names")


def _gone(peer: Peer, after: str) -> None:
    took = peer.wait_output_end(PATIENCE, after)
    if took > SECONDS + SLACK:
        raise Late(f"it was gone {took:.1f} s after {after}")


def _signal(name: str) -> None:
    def run(lab: Lab) -> None:
        number = getattr(signal, name, None)
        if number is None or os.name != "posix":
            raise Skip(f"this system has no {name}")
        if signal.getsignal(number) == signal.SIG_IGN and name == "SIGHUP":
            raise Skip("SIGHUP is ignored here, and what is spawned inherits that")
        _accepted(lab, name, lambda peer: peer.process.send_signal(number))

    check(f"signals.{name.lower()}", ANSWERED)(run)


for _name in ("SIGTERM", "SIGINT", "SIGHUP"):
    _signal(_name)


@check("signals.inherited", "HOST-5")
def _inherited(lab: Lab) -> None:
    if os.name != "posix":
        raise Skip("signals of POSIX")
    for number in (signal.SIGTERM, signal.SIGINT):
        script = (
            "import os, signal, sys\n"
            f"signal.signal({int(number)}, signal.SIG_IGN)\n"
            f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
            "os.execvp(sys.argv[1], sys.argv[1:])"
        )
        peer = lab.session(through=(sys.executable, "-c", script))
        peer.barrier()
        peer.process.send_signal(number)
        _ends(peer, f"{number.name}, which it had inherited blocked and ignored")


@check("signals.nohup", "HOST-5")
def _nohup(lab: Lab) -> None:
    if os.name != "posix":
        raise Skip("signals of POSIX")
    peer = lab.session(through=("/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh"))
    peer.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    peer.barrier()


@check("signals.at-once", "HOST-5")
def _at_once(lab: Lab) -> None:
    for _ in range(3):
        peer = lab.spawn()
        peer.barrier()
        peer.process.send_signal(signal.SIGTERM)
        _ends(peer, "a SIGTERM right after the first answer")


@check("ending.unknown-flag", "CLI-3")
def _flag(lab: Lab) -> None:
    peer = lab.spawn("--no-such-flag")
    status = peer.wait_exit(20, "an unknown flag")
    expect(status == 2, f"the status is {status}, not 2")
    expect(bool(peer.stderr().strip()), "stderr is empty")
    expect(not peer.events or all(event.way != "←" for event in peer.events), "something was written to stdout")


@check("ending.nothing-left", "WIRE-10")
def _nothing_left(lab: Lab) -> None:
    peer = lab.session()
    busy(peer)
    engine = peer.call("ping").get("engine")
    pid = engine.get("pid") if isinstance(engine, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(pid, int):
        raise Failed("`engine.pid` of ping is not a number while a job runs")
    peer.close_stdin()
    _ends(peer, "the end of stdin")
    until = time.monotonic() + 1
    while _lives(pid):
        if time.monotonic() > until:
            raise Failed(f"the engine's process {pid} outlives it")
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return sys.platform != "linux"


@check("ending.no-room", "HOST-10")
def _no_room(lab: Lab) -> None:
    if os.name != "posix":
        raise Skip("limits of POSIX")
    limits = {"40 descriptors": "ulimit -n 40"}
    if sys.platform == "linux":  # elsewhere this limit may be set and means nothing
        limits["128 MiB of address space"] = f"ulimit -v {128 << 10}"
    for what, limit in limits.items():
        peer = lab.spawn(through=("/bin/sh", "-c", f'{limit}; exec "$@"', "sh"))
        status = peer.wait_exit(20, f"a start with {what}")
        expect(status == 1, f"the status with {what} is {status}, not 1")
        lines = len(peer.stderr().splitlines())
        expect(lines == 1, f"with {what} stderr has {lines} lines, not one sentence")
        expect(all(event.way != "←" for event in peer.events), f"with {what} something was written to stdout")
