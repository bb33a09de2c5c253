"""Hosts that die, engines that die, engines that hang. Linux only (fork, pidfd)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import psutil

from campaigns.session import command, environment, line, opening, session
from locara_protocol.client import RemoteError, Sidecar

if TYPE_CHECKING:
    import random
    from pathlib import Path

HOST_PHASES = ("spawned", "open", "queued", "loading", "encoding", "denoising", "decoding", "saving")
ENGINE_PHASES = ("starting", "loading", "encoding", "denoising", "decoding")
SIGNALS = tuple(signal.Signals[name] for name in ("SIGKILL", "SIGSEGV", "SIGABRT"))

GONE_SECONDS = 2.0
TOLD_SECONDS = 0.25
STALL_SECONDS = 1.0
_PATIENCE = 5.0


@dataclass
class Found:
    """The outcome of the rounds: the seconds that each took, and what was wrong with some."""

    seconds: list[float] = field(default_factory=list[float])
    wrong: list[str] = field(default_factory=list[str])

    @property
    def worst(self) -> float:
        return max(self.seconds, default=0.0)


# --- the host dies ---------------------------------------------------------------------------


def kill_hosts(folder: Path, count: int, chance: random.Random, plant: str = "", *, held: bool | None = None) -> Found:
    """Kill that many hosts, in each phase in turn; daemon and engine must be gone within 2 s, leaving no temporary
    files.

    :param held: whether something else keeps both ends of the daemon's pipes, so that only watching the host helps;
        None for every second time.
    """
    found = Found()
    for number in range(count):
        phase = HOST_PHASES[number % len(HOST_PHASES)]
        keep = bool(number // len(HOST_PHASES) % 2) if held is None else held
        took = _kill_host(folder, phase, chance.uniform(0, 0.15), plant, keep=keep)
        found.seconds.append(took)
        if took > GONE_SECONDS:
            found.wrong.append(f"host {number} in {phase}: {took:.2f} s")
        for path in folder.iterdir():
            if path.name.startswith("."):
                found.wrong.append(f"host {number} in {phase} left {path.name}")
            path.unlink()
    return found


def _kill_host(folder: Path, phase: str, after: float, plant: str, *, keep: bool) -> float:
    """Seconds from SIGKILL to the end of the host's daemon and engine; more than 5 when they had to be killed."""
    assert sys.platform != "win32"
    pipes = [os.pipe() for _ in range(3)]
    (in_read, in_write), (out_read, out_write), (tell_read, tell_write) = pipes
    host = os.fork()
    if host == 0:
        _be_host(folder, phase, plant, in_read, in_write, out_read, out_write, tell_write)
    ours = {tell_read} | ({in_write, out_read} if keep else set())
    for fd in {fd for pipe in pipes for fd in pipe} - ours:
        os.close(fd)
    with os.fdopen(tell_read, "rb") as told:
        daemon = psutil.Process(int(told.readline()))
        told.readline()  # the phase has been reached
        if keep and phase == "spawned":
            _until_claimed(daemon.pid)
    time.sleep(after)
    if sys.platform != "linux":
        raise OSError("Linux only")
    left = {process.pid: os.pidfd_open(process.pid) for process in (daemon, *daemon.children(recursive=True))}
    os.kill(host, signal.SIGKILL)
    began = time.monotonic()
    os.waitpid(host, 0)
    while left and time.monotonic() - began < _PATIENCE:
        select.select(list(left.values()), [], [], 0.1)
        for pid, fd in list(left.items()):
            if select.select([fd], [], [], 0)[0]:
                os.close(fd)
                del left[pid]
    took = time.monotonic() - began
    for pid, fd in left.items():
        os.kill(pid, signal.SIGKILL)
        os.close(fd)
    for fd in ours - {tell_read}:
        os.close(fd)
    return took


def _until_claimed(pid: int) -> None:
    """Return once the daemon's own code runs: a parent that dies before that cannot be identified afterwards."""
    while os.readlink(f"/proc/{pid}/fd/0") != os.devnull:
        time.sleep(0.001)


def _be_host(
    folder: Path, phase: str, plant: str, in_read: int, in_write: int, out_read: int, out_write: int, tell: int
) -> NoReturn:
    """The host's life, in a forked process: spawn, send a request, report the phase when reached, run until killed."""
    assert sys.platform != "win32"
    with contextlib.suppress(BaseException):
        daemon = subprocess.Popen(
            command(plant=plant),
            stdin=in_read,
            stdout=out_write,
            stderr=subprocess.DEVNULL,
            env=environment(load=200, encode=200, step=200, decode=200),
        )
        os.close(in_read)
        os.close(out_write)
        os.write(tell, b"%d\n" % daemon.pid)
        if phase != "spawned":
            ask = [("initialize", opening(folder))]
            ask += [("image.generate", {"prompt": "fake:slow=60000 x", "channel": 9})] * (phase == "queued")
            ask += [("image.generate", {"prompt": "a lake", "channel": 1, "options": {"steps": 2}})]
            os.write(in_write, b"".join(line(number, *words) for number, words in enumerate(ask)))
        with os.fdopen(out_read, "rb") as answers:
            while phase != "spawned" and not _reached(json.loads(answers.readline()), phase):
                pass
            os.write(tell, b"there\n")
            while answers.readline():
                pass
        signal.pause()
    os._exit(1)


def _reached(message: dict[str, Any], phase: str) -> bool:
    if phase == "open":
        return message.get("id") == 0
    params = message.get("params", {})
    return params.get("channel") == 1 and params.get("message", {}).get("phase") == phase


# --- the engine dies -------------------------------------------------------------------------


def kill_engines(folder: Path, count: int, chance: random.Random, plant: str = "") -> Found:
    """Kill the engine in each phase with each signal: the typed error within 250 ms, and the next job works."""
    found = Found()
    with session(folder, plant=plant, start=150, load=60, encode=100, step=100, decode=100) as sidecar:
        for number in range(count):
            phase = ENGINE_PHASES[number % len(ENGINE_PHASES)]
            how = SIGNALS[number // len(ENGINE_PHASES) % len(SIGNALS)]
            if phase == "starting":
                _kill_idle(sidecar)
            call = sidecar.start("image.generate", {"prompt": "fake:load=150 x", "options": {"steps": 2}}, stream=True)
            pid = _engine_in(sidecar, call, phase)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, how)
            began = time.monotonic()
            kind, data = _error_of(call, 3 * TOLD_SECONDS)
            found.seconds.append(time.monotonic() - began)
            told = [message["phase"] for message in call.messages()] if kind is not None else []
            # a loaded machine may be late with the kill: the phase is the last that the host was told of
            right = {"EngineUnavailable": None} if phase == "starting" else {"EngineCrashed": (told or [phase])[-1]}
            wrong = (
                kind is None or kind not in right or data.get("phase") != right[kind] or data.get("signal") != how.name
            )
            if wrong or found.seconds[-1] > TOLD_SECONDS:
                found.wrong.append(f"{how.name} in {phase}: {kind} {data} after {found.seconds[-1]:.3f} s")
            if kind is None:
                sidecar.process.kill()
                return found
            if not _works(sidecar):
                found.wrong.append(f"no picture after {how.name} in {phase}")
    return found


def _kill_idle(sidecar: Sidecar) -> None:
    """End an idle engine, so that the next job has to start one."""
    assert sys.platform != "win32"
    if (pid := sidecar.call("ping")["engine"]["pid"]) is not None:
        os.kill(pid, signal.SIGKILL)
        while sidecar.call("ping")["engine"]["pid"] is not None:
            pass


def _engine_in(sidecar: Sidecar, call: Any, phase: str) -> int:
    """Return the engine's process id once the job is in a phase."""
    if phase == "starting":
        while (engine := sidecar.call("ping")["engine"])["state"] != "starting":
            pass
        return engine["pid"]
    for message in call.messages():
        if message["phase"] == phase and (phase != "loading" or message["progress"] > 0):
            break
    return sidecar.call("ping")["engine"]["pid"]


def _error_of(call: Any, timeout: float) -> tuple[str | None, dict[str, Any]]:
    """Return kind and data of the error that a call ends with; None if there is none in time."""
    try:
        return "a result", call.result(timeout)
    except RemoteError as error:
        return error.kind, error.data
    except TimeoutError:
        return None, {}


def _works(sidecar: Sidecar) -> bool:
    with contextlib.suppress(RemoteError, TimeoutError):
        return bool(sidecar.call("image.generate", {"prompt": "x", "options": {"steps": 1}}, timeout=10)["images"])
    return False


def hang_engines(folder: Path, count: int, plant: str = "") -> Found:
    """Engines stuck in native code with the lock held: EngineStalled by the deadline + 2 s, and the next job works."""
    found = Found()
    with session(folder, "--stall-timeout", str(STALL_SECONDS), plant=plant) as sidecar:
        for number in range(count):
            phase = ENGINE_PHASES[1:][number % 4]
            prompt = f"fake:hang={phase} fake:load=50 x"
            call = sidecar.start("image.generate", {"prompt": prompt, "options": {"steps": 2}}, stream=True)
            began, told = time.monotonic(), "queued"
            for message in call.messages():
                began, told = time.monotonic(), message["phase"]
                if told == phase:
                    break
            kind, data = _error_of(call, STALL_SECONDS + 2 * GONE_SECONDS)
            found.seconds.append(time.monotonic() - began)
            late = found.seconds[-1] > STALL_SECONDS + GONE_SECONDS
            # on a loaded machine the engine may hang before it has reported its last phase
            if kind != "EngineStalled" or data.get("phase") != told or late:
                found.wrong.append(f"hung in {phase}: {kind} {data} after {found.seconds[-1]:.2f} s")
            if kind is None:
                sidecar.process.kill()
                return found
            if not _works(sidecar):
                found.wrong.append(f"no picture after a hang in {phase}")
    return found
